"""Shards in S3, from a local server behind a proxy that fails in every way."""

import hashlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.remote import Patience, UnreachableError
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.index import index, tars
from tests.data.conftest import Command

s3fs = pytest.importorskip("s3fs")
moto = pytest.importorskip("moto.server")
QUICK = Patience(timeout=0.5, tries=3, pause=0.01)
SECRET = "secret-5f0c"
Make = Callable[..., Path]


class Proxy(BaseHTTPRequestHandler):
    """Passes requests on to the S3 server, or fails as `faults` of the server says: name -> (fault, how many times)."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        name = self.path.split("?")[0].rpartition("/")[2]
        self.server.requests[self.command, name] += 1
        fault, times = self.server.faults.get(name, ("", 0))
        failing = self.server.failed[name] < times and (self.command == "HEAD") == (fault == "wrong length")
        self.server.failed[name] += failing
        connection = http.client.HTTPConnection("127.0.0.1", self.server.backend, timeout=10)
        connection.request(self.command, self.path, headers=dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        if failing and fault == "stalls":
            time.sleep(1.5)
            return
        self.send_response(500 if failing and fault == "500" else answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding", "date", "server"):
                longer = failing and fault == "wrong length" and key.lower() == "content-length"
                self.send_header(key, str(int(value) + 512) if longer else value)
        self.end_headers()
        with suppress(OSError):
            if failing and fault in ("cut", "other bytes"):
                data = data[: len(data) // 2] if fault == "cut" else bytes(len(data))
            if self.command == "GET":
                self.wfile.write(data)
        self.close_connection = True


@pytest.fixture(scope="module")
def backend() -> Iterator[int]:
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@pytest.fixture
def store(backend: int, make_shards: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A proxy of a bucket with the shards of tmp_path/shards under s3://bucket/set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    server.daemon_threads = True
    server.requests, server.failed, server.faults, server.backend = (  # type: ignore[attr-defined]
        Counter[Any](), Counter[str](), {}, backend
    )  # fmt: skip
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    files = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{backend}")
    with suppress(FileExistsError):
        files.mkdir("bucket")
    folder = make_shards(5, "shards", train=23, val=4)
    for path in folder.iterdir():
        files.pipe_file(f"bucket/set/{path.name}", path.read_bytes())
    server.files = files  # type: ignore[attr-defined]
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"), patience=QUICK)


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


def train(shards: str, cache: ShardCache, **kwargs: Any) -> list[list[str]]:
    return list(TrainLoader(find_sources(shards, "train", cache), 4, keys, 6, **kwargs))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_and_a_pattern_give_the_batches_of_local_shards(
    store: Any, cache: ShardCache, tmp_path: Path, workers: int
) -> None:
    expected = train(str(tmp_path / "shards"), cache)
    assert train("s3://bucket/set", cache, num_workers=workers) == expected
    assert train("s3://bucket/set/{split}-{000000..000004}.tar", cache, num_workers=workers) == expected
    before = Counter(store.requests)
    assert train("s3://bucket/set", cache) == expected
    assert {name for _, name in store.requests - before} == {"manifest.json"}, "shards are fetched once"


@pytest.mark.parametrize("fault", ["500", "stalls", "cut", "other bytes", "wrong length"])
def test_failures_are_retried_by_us_alone_and_within_the_timeout(
    store: Any, cache: ShardCache, tmp_path: Path, fault: str
) -> None:
    data = (tmp_path / "shards" / "train-000000.tar").read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    path = cache.folder / "x" / "train-000000.tar"
    store.faults["train-000000.tar"] = (fault, 2)
    if fault == "wrong length":  # of a shard whose manifest states another
        with pytest.raises(ValueError, match=f"bytes and its manifest says {len(data)}; it was replaced or truncated"):
            cache.pin("s3://bucket/set/train-000000.tar", path, len(data), sha256)
        store.failed.clear()
    cache.pin("s3://bucket/set/train-000000.tar", path, None if fault == "wrong length" else len(data), sha256).close()
    assert path.read_bytes() == data
    assert store.failed["train-000000.tar"] == 2
    store.faults["train-000001.tar"] = (fault, 1000)
    start = time.monotonic()
    with pytest.raises(UnreachableError, match=r"s3://bucket/set/train-000001.tar was not fetched in 3 tries \(") as e:
        cache.pin("s3://bucket/set/train-000001.tar", path.with_name("b.tar"), None, "0" * 64)
    assert time.monotonic() - start < 20, "s3fs and botocore alone try for minutes"
    assert store.failed["train-000001.tar"] <= 6, "two requests a try at most"
    assert SECRET not in str(e.value)
    assert not list(cache.folder.rglob("*.tmp"))


def test_missing_files_buckets_and_credentials_are_one_sentence(
    store: Any, cache: ShardCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"s3://bucket/no/manifest.json: FileNotFoundError; correct data.shards"):
        train("s3://bucket/no", cache)
    with pytest.raises(ValueError, match=r"s3://nobody/set/manifest.json: FileNotFoundError; correct data.shards"):
        train("s3://nobody/set", cache)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ValueError, match=r"s3://bucket/x/manifest.json: NoCredentialsError; set credentials") as error:
        train("s3://bucket/x", cache)
    assert "\n" not in str(error.value)


def test_an_index_of_a_bucket(
    store: Any, cache: ShardCache, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (index, tars):
        monkeypatch.setattr(module, "PATIENCE", QUICK)
    assert "23 train samples" in command("index", "s3://bucket/set/{split}-{000000..000004}.tar", "--splits", "train")
    assert train(str(tmp_path / "out"), cache, bucket_batches=2) == train(
        str(tmp_path / "shards"), cache, bucket_batches=2
    )
