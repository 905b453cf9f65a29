"""What strangers may send, at a real server: too much, too slow, wrong or never read, and how others fare meanwhile."""

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest

from prefixvlm.model.decoder_state import DecoderState
from tests.serve.serving import data_url, png_of_size, serving

LIMITS = {
    "max_body_mb": 0.5, "body_timeout_s": 0.6, "timeout_s": 1.5, "max_queue": 3, "max_tokens": 12, "max_images": 2
}  # fmt: skip


@pytest.fixture(scope="module")
def limited(model):
    with serving(model, **LIMITS) as running:
        yield running


@pytest.fixture
def asked(paths):
    return {"image": data_url(paths[0])}


@contextmanager
def connected(url):
    with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=10) as connection:
        yield connection


def head(*lines):
    return "\r\n".join(
        ["POST /v1/caption HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *lines, "", ""]
    )


def everything(connection):
    """Return what a connection brings until the server closes it."""
    data = b""
    while part := connection.recv(2**16):
        data += part
    return data.decode()


def sentence(answer):
    (error,) = answer.json().values()
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error["message"]


@contextmanager
def busy(app):
    """Keep the model's thread from computing."""
    started, go = threading.Event(), threading.Event()

    def wait(arguments):
        started.set()
        assert go.wait(20)
        return arguments

    async def submit():
        app.state.service.batcher.submit(wait, None)

    asyncio.run(submit())
    assert started.wait(5)
    try:
        yield go
    finally:
        go.set()


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length(limited, asked):
    body = json.dumps({**asked, "question": "x" * 600_000}).encode()
    whole = httpx.post(f"{limited[0]}/v1/caption", content=body, headers={"Content-Type": "application/json"})
    chunks = (body[place : place + 50_000] for place in range(0, len(body), 50_000))
    chunked = httpx.post(f"{limited[0]}/v1/caption", content=chunks, headers={"Content-Type": "application/json"})
    for answer in (whole, chunked):
        assert answer.status_code == 413
        assert sentence(answer) == "the request has more than 0.5 MB; send a smaller image"


def test_a_body_without_end_is_not_kept(limited):
    with connected(limited[0]) as connection:
        connection.sendall(head("Transfer-Encoding: chunked").encode())
        with pytest.raises(OSError, match=r"reset|Broken|abort"):  # refused, and closed
            connection.sendall((b"10000\r\n" + b"x" * 65536 + b"\r\n") * 500)


def test_a_body_that_trickles_is_ended_and_others_are_answered_meanwhile(limited, asked, model, paths):
    with connected(limited[0]) as connection:
        connection.sendall(head("Content-Length: 1000").encode())
        start = time.monotonic()
        connection.sendall(b"{")
        for _ in range(3):
            time.sleep(0.1)
            connection.sendall(b" ")
        other = httpx.post(f"{limited[0]}/v1/caption", json=asked)
        assert other.json()["text"] == model.caption(paths[0])
        answer = everything(connection)
    assert time.monotonic() - start < 3
    assert answer.startswith("HTTP/1.1 408")
    assert "the request did not come within 0.6 s" in answer


@pytest.mark.parametrize("sent", ["", "POST /v1/caption HTTP/1.1\r\nHost: 127"])
def test_headers_that_do_not_come_end_the_connection(limited, sent):
    with connected(limited[0]) as connection:
        connection.sendall(sent.encode())
        start = time.monotonic()
        with suppress(ConnectionResetError):
            assert everything(connection) == ""
        assert 0.5 < time.monotonic() - start < 4


def test_a_client_that_does_not_read_is_dropped(limited):
    with connected(limited[0]) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(5)
        request = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with pytest.raises(OSError, match=r"reset|Broken|abort"):
            connection.sendall(request * 100_000)


def test_with_a_full_queue_more_get_429_and_those_in_it_are_answered(limited, asked, model, paths):
    url, app = limited
    with busy(app) as go, ThreadPool() as pool:
        waiting = [pool.post(f"{url}/v1/caption", asked) for _ in range(3)]
        while httpx.get(f"{url}/health").json()["queued"] < 3:
            time.sleep(0.01)
        refused = httpx.post(f"{url}/v1/caption", json=asked)
        streamed = httpx.post(f"{url}/v1/caption", json={**asked, "stream": True})
        go.set()
        for answer in (refused, streamed):
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            assert sentence(answer) == "as many requests wait as may; try again later"
        assert {each.result().json()["text"] for each in waiting} == {model.caption(paths[0])}


def test_what_takes_too_long_is_504_and_leaves_the_queue(limited, asked):
    url, app = limited
    with busy(app):
        answers = [httpx.post(f"{url}/v1/caption", json={**asked, "stream": stream}) for stream in (False, True)]
        assert [answer.status_code for answer in answers] == [504, 504]
        assert sentence(answers[0]) == "it took more than 1.5 s; ask for less, or later"
        assert httpx.get(f"{url}/health").json()["queued"] == 0


def test_a_client_that_has_gone_is_computed_nothing_for(limited, asked):
    url, app = limited
    before = computed(url)
    with busy(app):
        body = json.dumps(asked)
        with connected(url) as connection:
            connection.sendall((head(f"Content-Length: {len(body)}") + body).encode())
            until(lambda: len(app.state.service.batcher) == 1)
        until(lambda: len(app.state.service.batcher) == 0)
    httpx.post(f"{url}/v1/caption", json=asked)
    assert computed(url) == before + 2  # what kept the thread busy, and the last


def test_a_stream_whose_client_has_gone_stops(model, asked, monkeypatch):
    steps, step = [], DecoderState.step

    def slow_step(*arguments):
        steps.append(time.sleep(0.02))
        step(*arguments)

    monkeypatch.setattr(DecoderState, "step", slow_step)
    decoding = {"max_new_tokens": 60, "stop": ["no such text"]}
    with serving(model) as (url, _):
        whole = httpx.post(f"{url}/v1/caption", json={**asked, "decoding": decoding, "stream": True})
        assert whole.text.count("data: ") > 20
        steps.clear()
        with httpx.stream("POST", f"{url}/v1/caption", json={**asked, "decoding": decoding, "stream": True}) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
        time.sleep(0.5)
        assert 0 < len(steps) < 15


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "the request has no JSON"),
        (b"{", "the request is not JSON"),
        (b"[]", "the request is not valid"),
        (b"[" * 100_000, "the request is"),
        (b'{"image": ' + b"[" * 5000 + b"]" * 5000 + b"}", "the request is"),
        (b'{"image": "x", "decoding": {"max_new_tokens": ' + b"9" * 6000 + b"}}", "the request is"),
        (b'{"image": 3}', "image is not valid: Input should be a valid string"),
        (b'{"image": null}', "image is not valid"),
        (b'{"image": "x", "sede": 3}', "sede is not valid: Extra inputs are not permitted"),
        (b'{"image": "x", "decoding": {"temperature": NaN}}', "decoding.temperature is not valid"),
        (b'{"image": "x", "decoding": {"temperature": 1e999}}', "decoding.temperature is not valid"),
        (b'{"image": "x", "decoding": {"max_new_tokens": -1}}', "decoding.max_new_tokens is not valid"),
        (b'{"image": "x", "decoding": {"num_beams": 1000}}', "decoding.num_beams is not valid"),
        (b'{"image": "\\ud800"}', "an image is neither a data: URL nor base64"),
        (b'{"\\ud800": 1, "image": ""}', " is not valid: "),
        (b'{"image": "\xff"}', "the request is"),
        (b'{"image": "///"}', "an image is neither a data: URL nor base64"),
        (b'{"image": "data:image/png;base64"}', "an image is a data: URL without a comma"),
        (b'{"image": "aGVsbG8="}', "the image does not decode"),
    ],
)
def test_a_body_that_is_wrong_is_one_sentence(limited, body, said):
    answer = httpx.post(f"{limited[0]}/v1/caption", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert said in sentence(answer)


def test_wrong_values_are_one_sentence(limited, asked, paths):
    url = limited[0]
    for changes, said in (
        ({"decoding": {"max_new_tokens": 13}}, "13 tokens are asked for; at most 12 are generated"),
        ({"decoding": {"num_beams": 3, "method": "greedy"}}, "num_beams is not an option of greedy decoding"),
        ({"task": "detection"}, "the checkpoint was trained for captioning, vqa, not for detection"),
        ({"question": "is \ud800 it?"}, "a text is not valid Unicode"),
        ({"question": "why? " * 10_000}, "the texts have 50000 characters; at most 20000 are read"),
        ({"question": "why? " * 100}, "tokens with its images, and the language model reads"),
        ({"image": png_of_size(8000, 8000)}, "8000 x 8000 pixels; at most 50000000 are decoded"),
        ({"image": "http://127.0.0.1:1/x.png"}, "an image is at 127.0.0.1; give a data: URL"),
        ({"image": "file:///etc/passwd"}, "an image is neither a data: URL nor base64"),
        ({"image": str(paths[0])}, "an image is neither"),
    ):
        for stream in (False, True):
            body = json.dumps({**asked, **changes, "stream": stream})  # with escapes, as httpx does not write
            answer = httpx.post(f"{url}/v1/caption", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code == 400, answer.text
            assert said in sentence(answer)


def test_what_is_not_there_is_404_or_405(limited):
    for path in ("/v1/nothing", "/page/nothing.js", "/page/..%2fapp.py", "/docs"):
        assert httpx.get(limited[0] + path).status_code == 404
    assert httpx.get(f"{limited[0]}/v1/caption").status_code == 405
    assert sentence(httpx.get(f"{limited[0]}/v1/nothing")) == "Not Found"


def test_pages_of_other_sites_can_neither_ask_nor_read(limited, asked):
    url = limited[0]
    rebound = httpx.get(f"{url}/health", headers={"Host": "evil.example:8000"})
    assert (rebound.status_code, "Host header" in sentence(rebound)) == (400, True)
    for host in ("localhost", "127.0.0.1:1", "[::1]:8000", "[::1]"):
        assert httpx.get(f"{url}/health", headers={"Host": host}).status_code == 200
    simple = httpx.post(f"{url}/v1/caption", content=json.dumps(asked), headers={"Content-Type": "text/plain"})
    assert simple.status_code == 400  # a form needs no preflight, but is not read
    nameless = httpx.post(f"{url}/v1/caption", content=json.dumps(asked))  # nor does a Blob without a type
    assert (nameless.status_code, "Content-Type" not in nameless.request.headers) == (400, True)
    asking = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [httpx.options(f"{url}/v1/caption", headers=asking), httpx.get(f"{url}/health", headers=asking)]
    assert not [name for answer in answers for name in answer.headers if name.startswith("access-control")]


def computed(url):
    (line,) = [each for each in httpx.get(f"{url}/metrics").text.splitlines() if "batch_size_sum" in each]
    return float(line.split()[1])


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


class ThreadPool:
    """Requests side by side."""

    def __enter__(self):
        self.pool = ThreadPoolExecutor(8)
        return self

    def post(self, url, content):
        return self.pool.submit(httpx.post, url, json=content, timeout=20)

    def __exit__(self, *error):
        self.pool.shutdown()
