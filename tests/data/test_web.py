"""Answers of web servers that cut, change or redirect: no damaged shard is stored, and no secret is passed on."""

import base64
import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefixvlm.data import remote
from prefixvlm.data.remote import Patience, UnreachableError, download
from prefixvlm.data.web import MissingError
from tests.data.conftest import png, write_tar

QUICK = Patience(timeout=2, tries=2, pause=0.01)


class Handler(BaseHTTPRequestHandler):
    """Answers with server.answer, (status, headers, body), and records the headers of requests."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        status, headers, body = self.server.answers.get(self.path, self.server.answer)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def servers() -> Iterator[Callable[[], Any]]:
    started = []

    def start() -> Any:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.seen, server.answers, server.answer = [], {}, (404, {}, b"")  # type: ignore[attr-defined]
        server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server(servers: Callable[[], Any]) -> Any:
    return servers()


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return write_tar(tmp_path / "x.tar", [("a.png", png()), ("a.txt", b"A")]).read_bytes()


@pytest.mark.parametrize("scheme", ["ftp", "file", "data", "gopher", "FTP", "s3"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_leaves_http_for_no_other_scheme(server: Any, tmp_path: Path, scheme: str, code: int) -> None:
    (tmp_path / "secret").write_text("secret")
    target = {"data": "data:,secret", "file": f"file://{tmp_path}/secret"}.get(scheme, f"{scheme}://127.0.0.1/x.tar")
    server.answer = (code, {"Location": target}, b"")
    with pytest.raises(MissingError, match=rf"a.tar redirects to a {scheme.lower()}: URL; only redirects to http and"):
        download(f"{server.url}/a.tar?sig=hidden", tmp_path / "out.tar", None, None, QUICK)
    assert not (tmp_path / "out.tar").exists()
    assert len(server.seen) == 1


def test_a_redirect_to_another_host_gets_no_credentials(
    servers: Callable[[], Any], tmp_path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = servers(), servers()
    first.answer = (302, {"Location": f"{second.url}/b.tar", "Set-Cookie": "session=secret"}, b"")
    second.answer = (200, {"Content-Length": str(len(data))}, data)
    # The first host is asked through a proxy, here itself, with credentials that are the proxy's.
    monkeypatch.setenv("http_proxy", first.url.replace("//", "//me:secret@"))
    monkeypatch.setenv("no_proxy", f"127.0.0.1:{second.server_port}")
    download("http://localhost.test/a.tar?sig=secret", tmp_path / "out.tar", None, None, QUICK)
    assert (tmp_path / "out.tar").read_bytes() == data
    assert "Proxy-Authorization" in first.seen[0][1]
    path, headers = second.seen[0]
    assert path == "/b.tar"
    assert "secret" not in str(headers)
    assert not {"authorization", "proxy-authorization", "cookie", "referer"} & {name.lower() for name in headers}


@pytest.mark.parametrize("cut", [1, 512, 1024, 9000, 10240 - 600])
@pytest.mark.parametrize("length", [False, True])
def test_a_shard_that_was_cut_is_never_stored(server: Any, tmp_path: Path, data: bytes, cut: int, length: bool) -> None:
    """Without a length, and with one that is short itself."""
    assert len(data) == 10240
    body = data[: 512 * 4 + 1024 - cut] if cut <= 1024 else data[: len(data) - cut]  # the members take 4 blocks
    server.answer = (200, {"Content-Length": str(len(body))} if length else {}, body)
    with pytest.raises(UnreachableError, match=r"a.tar was not fetched .*end as a tar does, so it is cut short"):
        download(f"{server.url}/a.tar", tmp_path / "out.tar", None, None, QUICK)
    assert not (tmp_path / "out.tar").exists()


def test_a_body_that_differs_from_its_length(server: Any, tmp_path: Path, data: bytes) -> None:
    for more, reason in ((1, "broke off after 10240 of 10241"), (-512, "manifest says 10240")):
        server.answer = (200, {"Content-Length": str(len(data) + more)}, data)
        with pytest.raises(ValueError, match=reason):
            download(f"{server.url}/a.tar", tmp_path / "out.tar", None if more > 0 else len(data), None, QUICK)
    for body in (data + b"\0", data[:-1]):  # without a length, beside a manifest
        server.answer = (200, {}, body)
        with pytest.raises(ValueError, match=r"more bytes than were announced|broke off after 10239 of 10240"):
            download(f"{server.url}/a.tar", tmp_path / "out.tar", len(data), None, QUICK)
    assert not (tmp_path / "out.tar").exists()


def base64_of(name: str, data: bytes) -> str:
    return base64.b64encode(hashlib.new(name, data).digest()).decode()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-MD5", "{md5}"), ("x-goog-hash", "crc32c=AAAAAA==,md5={md5}"), ("x-amz-checksum-sha256", "{sha256}"),
        ("Digest", "SHA-256={sha256}"), ("Repr-Digest", "sha-512=:AAAA:, sha-256=:{sha256}:"),
    ],
)  # fmt: skip
def test_checksums_that_a_server_states_are_checked(
    server: Any, tmp_path: Path, data: bytes, name: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    header = value.format(md5=base64_of("md5", data), sha256=base64_of("sha256", data))
    server.answer = (200, {name: header}, data)
    download(f"{server.url}/{name}/a.tar", tmp_path / "out.tar", None, None, QUICK)
    assert not caplog.records
    server.answer = (200, {name: header}, data[:600] + bytes([data[600] ^ 1]) + data[601:])
    with pytest.raises(UnreachableError, match="do not have the checksum that the server states"):
        download(f"{server.url}/{name}/a.tar", tmp_path / "other.tar", None, None, QUICK)


def test_without_any_checksum_that_nothing_is_known_is_said_once(
    server: Any, tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    remote._say_unchecked.cache_clear()
    server.answer = (200, {"ETag": '"0123456789abcdef0123456789abcdef"'}, data)  # of unknown meaning
    for name in "ab":
        download(f"{server.url}/x/{name}.tar?sig=secret", tmp_path / f"{name}.tar", None, None, QUICK)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"the shards of {server.url}/x have no manifest, nor does the server state")
    download(f"{server.url}/y/c.tar", tmp_path / "c.tar", len(data), hashlib.sha256(data).hexdigest(), QUICK)
    assert len(caplog.records) == 1
