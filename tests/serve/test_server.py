"""Keys, batches, metrics, images of other hosts, heat maps and the page, at a real server."""

import asyncio
import base64
import gc
import http.server
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
import torch
from fastapi import HTTPException

from prefixvlm.inspect.attribution import heat_maps
from prefixvlm.serve.images import Images
from tests.serve.serving import data_url, serving


def test_with_a_key_only_health_and_the_page_are_open(model, paths):
    asked = {"image": data_url(paths[0])}
    with serving(model, key="s3cret") as (url, _):
        for key in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer s3cret2"}):
            for path in ("/v1/models", "/metrics", "/nothing"):
                assert httpx.get(url + path, headers=key).status_code == 401
            refused = httpx.post(f"{url}/v1/caption", json=asked, headers=key)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        assert httpx.get(f"{url}/health").json()["status"] == "ok"
        assert httpx.get(f"{url}/").status_code == 200
        answer = httpx.post(f"{url}/v1/caption", json=asked, headers={"Authorization": "Bearer s3cret"})
        assert answer.json()["text"] == model.caption(paths[0])


def test_requests_that_come_together_are_computed_together_and_a_wrong_one_harms_none(model, paths):
    questions = ["is it?", "how many?", "what {colour} is it?", "what? " * 100]
    asked = [(path, question) for path in paths for question in questions]

    def post(pair):
        return httpx.post(f"{url}/v1/caption", json={"image": data_url(pair[0]), "question": pair[1]}, timeout=30)

    with serving(model, max_wait_ms=5000) as (url, _), ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(post, asked))
        metrics = httpx.get(f"{url}/metrics").text
    for (path, question), answer in zip(asked, answers, strict=True):
        if question == questions[-1]:
            assert answer.status_code == 400
        else:
            assert answer.json()["text"] == model.answer(path, question)
    assert 'prefixvlm_batch_size_bucket{le="8.0"} 0.0' in metrics  # one batch of 16, which was full before 5 s
    assert "prefixvlm_batch_size_sum 16.0" in metrics
    assert 'prefixvlm_requests_total{code="200",endpoint="/v1/caption"} 12.0' in metrics
    assert 'prefixvlm_requests_total{code="400",endpoint="/v1/caption"} 4.0' in metrics
    assert float(re.search(r"^prefixvlm_generated_tokens_total (\S+)", metrics, re.MULTILINE)[1]) > 12


def test_the_page_is_served_and_may_load_nothing_from_elsewhere(url):
    page = httpx.get(f"{url}/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'")
    files = re.findall(r'(?:src|href)="(page/[^"]+)"', page.text.replace('"/page', '"page'))
    assert files
    for name in files:
        assert httpx.get(f"{url}/{name}").status_code == 200


@pytest.mark.parametrize("question", [None, "is it?"])
def test_heat_maps_are_those_of_inspect(url, model, paths, question):
    asked = {"image": data_url(paths[0]), "question": question, "text": "ab"}
    answer = httpx.post(f"{url}/v1/heat_map", json=asked).json()
    expected = heat_maps(model, paths[0], question, "ab")
    assert answer["tokens"] == expected.tokens
    torch.testing.assert_close(torch.tensor(answer["maps"]), expected.maps, atol=1e-3, rtol=0)
    for wrong in ({"method": "occlusion"}, {"text": "a" * 501}, {"question": "a" * 501}):  # hours that nobody can end
        assert httpx.post(f"{url}/v1/heat_map", json={**asked, **wrong}).status_code == 400


class Files(http.server.BaseHTTPRequestHandler):
    """Serves one image, a redirect to it, and a file without end."""

    data = b""

    def do_GET(self):
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "/image")
        self.end_headers()
        if self.path == "/image":
            self.wfile.write(self.data)
        with suppress(ConnectionError):
            for _ in range(1000 if self.path == "/endless" else 0):
                self.wfile.write(bytes(10_000))

    def log_message(self, *arguments):
        pass


def test_images_come_from_allowed_hosts_alone(model, paths):
    handler = type("Handler", (Files,), {"data": paths[0].read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        allowed = Images(model.decoder, 100_000, 10**9, ["127.0.0.1", "Example.org"])
        allowed._check_host("https://EXAMPLE.org/x.png")
        assert asyncio.run(allowed.read(f"{base}/image"))[0] == paths[0].read_bytes()
        for path, said in (("/moved", "302"), ("/endless", "more than 100000 bytes")):
            with pytest.raises(ValueError, match=f"the image at 127.0.0.1 cannot be read .*{said}"):
                asyncio.run(allowed.read(base + path))
        with pytest.raises(ValueError, match=r"cannot be read \(URL can't contain control characters"):
            asyncio.run(allowed.read(f"{base}/an image"))
        for url in (f"http://localhost:{server.server_port}/image", "http://127.0.0.1@evil.example/x"):
            with pytest.raises(ValueError, match=r"give a data: URL, or one of 127\.0\.0\.1, example\.org"):
                asyncio.run(allowed.read(url))
        allowed.close()
        server.shutdown()


def test_decoded_images_hold_so_many_pixels_and_give_them_back(model, paths):
    images = Images(model.decoder, 10**6, 70 * 50 * 2)

    async def read(number):
        return [await images.read(data_url(paths[0])) for _ in range(number)]

    assert len(asyncio.run(read(2))) == 2
    gc.collect()
    assert images.held == 0
    with pytest.raises(HTTPException) as error:
        asyncio.run(read(3))
    assert error.value.status_code == 429
    del error
    gc.collect()
    assert images.held == 0
    with pytest.raises(ValueError, match="does not decode"):
        asyncio.run(images.read(base64.b64encode(paths[0].read_bytes()[:-60]).decode()))
    assert images.held == 0
    images.close()


def test_an_image_may_be_freed_while_another_is_counted(model):
    images = Images(model.decoder, 10**6, 100)

    def free():  # as the garbage collector may in the thread that has the lock
        with images._lock:
            images._hold(-7)

    thread = threading.Thread(target=free, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    images.close()


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_of_the_server_is_answered_in_the_same_form(url, model, paths, monkeypatch, stream):
    monkeypatch.setattr(model.module, "collate", lambda *_: {}["a bug"])
    answer = httpx.post(f"{url}/v1/caption", json={"image": data_url(paths[0]), "stream": stream})
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    monkeypatch.undo()
    assert httpx.post(f"{url}/v1/caption", json={"image": data_url(paths[0])}).status_code == 200
