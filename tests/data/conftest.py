"""Small real shards for the tests of data/, and a web server that fails in every way."""

import io
import json
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixvlm import cli
from prefixvlm.data.shards.write import write_shards

Command = Callable[..., str]


def png(colour: int | str = 0, size: tuple[int, int] = (4, 4), kind: str = "PNG", mode: str = "RGB") -> bytes:
    return encoded(Image.new(mode, size, colour), kind)


def encoded(image: Image.Image, kind: str = "PNG", **more: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)
    return buffer.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def raw_samples(count: int, prefix: str = "s") -> Iterator[tuple[str, dict[str, bytes]]]:
    for number in range(count):
        question = {"id": f"{prefix}{number}-0", "question": "how many?", "answers": [str(number)]}
        content = {"captions": [f"number {number}"], "questions": [question]}
        yield f"{prefix}{number:03d}", {"png": png(number), "json": json.dumps(content).encode()}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run `prefixvlm shards` and return its output: command("coco", "--images", ..., code=2).

    --out is tmp_path/out unless given. workers, out: None leaves the option out.
    """

    def run(*arguments: object, code: int = 0, workers: int | None = 1, out: Path | None = tmp_path / "out") -> str:
        options = {"--out": out, "--workers": workers}
        more = [word for name, value in options.items() if value is not None for word in (name, value)]
        monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", *map(str, [*arguments, *more])])
        if code:
            with pytest.raises(SystemExit) as exit_:
                cli.main()
            assert exit_.value.code == code
        else:
            cli.main()
        captured = capsys.readouterr()
        assert ("error: " in captured.err) == bool(code)
        return captured.out + captured.err

    return run


@pytest.fixture
def make_shards(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of shards and return its path: make_shards(samples_per_shard=5, train=23, val=7)."""

    def make(samples_per_shard: int = 5, name: str = "shards", **counts: int) -> Path:
        splits = {split: raw_samples(count, split) for split, count in counts.items()}
        write_shards(splits, tmp_path / name, "a test", "none", samples_per_shard)
        return tmp_path / name

    return make


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.split("?")[0].rpartition("/")[2]
        self.server.requests[name] += 1
        fault, times = self.server.faults.get(name, ("", 0))
        if self.server.requests[name] > times:
            super().do_GET()
        elif fault == "500":
            self.send_error(500)
        elif fault == "stalls":
            time.sleep(1.5)
        else:
            data = (Path(self.directory) / self.path.lstrip("/")).read_bytes()
            half = data[: len(data) // 2]
            self.send_response(200)
            self.send_header("Content-Length", str(2**40 if fault == "huge" else len(data)))
            self.end_headers()
            if fault == "breaks off":
                self.wfile.write(half)
            elif fault == "slow":
                with suppress(OSError):  # the client was killed
                    for first in range(0, len(data), 1 + len(data) // 8):
                        self.wfile.write(data[first : first + 1 + len(data) // 8])
                        time.sleep(0.1)
            elif fault == "other bytes":
                self.wfile.write(bytes(len(data)))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    """A web server. faults: file name -> (kind of failure, how many times). requests: number of requests per file."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    server.daemon_threads = True
    server.requests, server.faults = Counter[str](), {}  # type: ignore[attr-defined]
    server.url = f"http://127.0.0.1:{server.server_port}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
