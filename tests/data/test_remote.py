"""Remote shards and their cache, with a local web server that fails in every way."""

import fcntl
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from prefixvlm.data import remote
from prefixvlm.data.collates import Collates
from prefixvlm.data.datamodule import ShardDataModule
from prefixvlm.data.loading import shard_source
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.remote import Patience, UnreachableError, is_remote
from prefixvlm.data.sample import Sample
from prefixvlm.data.shard_cache import ShardCache

Make = Callable[..., Path]
QUICK = Patience(timeout=0.5, tries=3, pause=0.01)


def keys(samples: list[Sample], rng: random.Random) -> list[str]:
    return [sample.key for sample in samples]


@pytest.fixture
def folder(make_shards: Make) -> Path:
    return make_shards(5, "shards", train=23, val=4)


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    return ShardCache(str(tmp_path / "cache"), patience=QUICK)


def train(shards: str, cache: ShardCache, **kwargs: Any) -> list[list[str]]:
    return list(TrainLoader(find_sources(shards, "train", cache), 4, keys, 6, **kwargs))


def fetch(cache: ShardCache, url: str, name: str = "train-000000.tar", **kwargs: Any) -> Path:
    pin = cache.pin(f"{url}/shards/{name}", cache.folder / "x" / name, **kwargs)
    pin.close()
    return pin.path


def leftovers(cache: ShardCache) -> list[Path]:
    return list(cache.folder.rglob("*.tmp"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_and_a_pattern_give_the_same_batches_as_local_shards_and_are_fetched_once(
    folder: Path, server, cache: ShardCache, workers: int
) -> None:
    expected = train(str(folder), cache)
    assert train(f"{server.url}/shards", cache, num_workers=workers) == expected
    assert train(f"{server.url}/shards/", cache) == expected
    shards = [name for name in server.requests if name.endswith(".tar")]
    assert {name: server.requests[name] for name in shards} == {f"train-00000{n}.tar": 1 for n in range(5)}
    pattern = f"{server.url}/shards/{{split}}-{{000000..000004}}.tar?signature=secret"
    assert train(pattern, cache, num_workers=workers) == expected
    assert train(pattern, cache) == expected
    assert {server.requests[name] for name in shards} == {2}
    assert not leftovers(cache)


def test_text_lengths_are_fetched_when_they_are_needed_and_once(folder: Path, server, cache: ShardCache) -> None:
    expected = train(str(folder), cache, bucket_batches=2)
    train(f"{server.url}/shards", cache)
    assert not server.requests["train.text_lengths"]
    for _ in range(2):
        assert train(f"{server.url}/shards", cache, bucket_batches=2) == expected
    assert server.requests["train.text_lengths"] == 1
    assert not server.requests["val.text_lengths"]


def test_the_data_module_mixes_local_and_remote_shards(folder: Path, server, tmp_path: Path) -> None:
    shards = {"here": {"shards": str(folder)}, "there": {"shards": f"{server.url}/shards"}}
    datamodule = ShardDataModule(
        shards, 4, cache_dir=str(tmp_path / "cache"), cache_limit=1, collates=Collates(keys, keys)
    )
    datamodule.setup("fit")
    assert not any(name.endswith(".tar") for name in server.requests), "nothing but the manifest is fetched to look"
    assert {key.split("/")[0] for batch in datamodule.train_dataloader() for key in batch} == {"here", "there"}
    val = [f"{name}/val{n:03d}" for name in ("here", "there") for n in range(4)]
    assert [key for batch in datamodule.val_dataloader()[0] for key in batch] == val
    assert len(datamodule.paths("val")) == 2


@pytest.mark.parametrize("fault", ["500", "breaks off", "stalls", "other bytes"])
def test_transient_failures_are_retried(folder: Path, server, cache: ShardCache, fault: str) -> None:
    data = (folder / "train-000000.tar").read_bytes()
    server.faults["train-000000.tar"] = (fault, 2)
    sha256 = hashlib.sha256(data).hexdigest()
    assert fetch(cache, server.url, size=len(data), sha256=sha256).read_bytes() == data
    assert server.requests["train-000000.tar"] == 3
    server.faults["train-000001.tar"] = (fault, 3)
    with pytest.raises(
        UnreachableError, match=r"train-000001.tar was not fetched in 3 tries \(.+\); is the network"
    ) as e:
        fetch(cache, server.url, "train-000001.tar", sha256="0" * 64)
    assert "\n" not in str(e.value)
    assert not leftovers(cache)
    assert not (cache.folder / "x" / "train-000001.tar").exists()


def test_a_slow_server(folder: Path, server, cache: ShardCache) -> None:
    server.faults["train-000000.tar"] = ("slow", 1)
    assert fetch(cache, server.url).read_bytes() == (folder / "train-000000.tar").read_bytes()
    assert server.requests["train-000000.tar"] == 1


def test_permanent_failures_raise_at_once(folder: Path, server, cache: ShardCache, monkeypatch) -> None:
    with pytest.raises(ValueError, match=r"nothing.tar: 404 File not found; correct data.shards"):
        fetch(cache, server.url, "nothing.tar")
    assert server.requests["nothing.tar"] == 1
    with pytest.raises(ValueError, match=r"has \d+ bytes and its manifest says 3; it was replaced"):
        fetch(cache, server.url, size=3)
    server.faults["train-000001.tar"] = ("huge", 1)
    with pytest.raises(ValueError, match=r"has 1099511627776 bytes; at most 68719476736 are fetched"):
        fetch(cache, server.url, "train-000001.tar")
    with pytest.raises(ValueError, match=r"manifest.json: 404 .*: a folder needs a manifest.json, else give a pattern"):
        train(f"{server.url}/nowhere", cache)
    with pytest.raises(ValueError, match=r"/shards holds no test samples, only train, val"):
        find_sources(f"{server.url}/shards", "test", cache)
    with pytest.raises(ValueError, match=r"must have \{split\} in it, and no \*"):
        find_sources(f"{server.url}/shards/train-*.tar", "train", cache)
    assert not leftovers(cache)


def test_without_a_network_the_cache_is_used_and_missing_shards_raise(
    folder: Path, server, cache: ShardCache, caplog
) -> None:
    url = f"{server.url}/shards"
    expected = train(url, cache)
    server.shutdown()
    server.server_close()
    assert train(url, cache) == expected
    assert "the copy in" in caplog.text
    next(cache.folder.glob("*/train-000002.tar")).unlink()
    with pytest.raises(ValueError, match=r"train-000002.tar was not fetched in 3 tries \(Connection refused\)"):
        train(url, cache)
    with pytest.raises(ValueError, match=r"manifest.json was not fetched in 3 tries"):
        train(f"{url}2", cache)


def test_shards_that_were_replaced_are_fetched_again(
    make_shards: Make, folder: Path, server, cache: ShardCache
) -> None:
    url = f"{server.url}/shards"
    train(url, cache)
    other = make_shards(5, "other", train=22, val=4)
    for path in other.iterdir():
        path.replace(folder / path.name)
    assert train(url, cache) == train(str(folder), cache)


def start_fetch(cache: ShardCache, url: str) -> subprocess.Popen:
    """Start a process that fetches a shard and prints its sha256."""
    code = f"""
import hashlib
from pathlib import Path
from prefixvlm.data.shard_cache import ShardCache
path = Path({str(cache.folder / "x" / "train-000000.tar")!r})
pin = ShardCache({str(cache.folder)!r}).pin({url + "/shards/train-000000.tar"!r}, path)
print(hashlib.sha256(pin.path.read_bytes()).hexdigest())
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_many_processes_fetch_a_file_once(folder: Path, server, cache: ShardCache) -> None:
    server.faults["train-000000.tar"] = ("slow", 1)
    processes = [start_fetch(cache, server.url) for _ in range(3)]
    sha256 = hashlib.sha256((folder / "train-000000.tar").read_bytes()).hexdigest()
    assert [process.communicate(timeout=60)[0].strip() for process in processes] == [sha256] * 3
    assert server.requests["train-000000.tar"] == 1


def test_a_killed_download_starts_over(folder: Path, server, cache: ShardCache) -> None:
    server.faults["train-000000.tar"] = ("slow", 1)
    process = start_fetch(cache, server.url)
    deadline = time.monotonic() + 60
    while not leftovers(cache) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert leftovers(cache)
    assert not (cache.folder / "x" / "train-000000.tar").exists()
    assert fetch(cache, server.url).read_bytes() == (folder / "train-000000.tar").read_bytes()
    assert not leftovers(cache)


def test_the_least_recently_used_shard_is_evicted_first_and_none_in_use(
    folder: Path, server, cache: ShardCache, caplog
) -> None:
    size = (folder / "train-000000.tar").stat().st_size
    limited = ShardCache(str(cache.folder), 3.5 * size / 1e9, QUICK)
    names = [f"train-00000{number}.tar" for number in range(5)]
    for age, name in enumerate(names[:3]):
        os.utime(fetch(limited, server.url, name), (age, age))
    in_use = limited.pin(f"{server.url}/shards/{names[0]}", cache.folder / "x" / names[0])
    os.utime(in_use.path, (0, 0))
    fetch(limited, server.url, names[3], size=size)
    assert sorted(path.name for path in cache.folder.glob("*/*.tar")) == [names[0], names[2], names[3]]
    assert "cache_limit" not in caplog.text
    tiny = ShardCache(str(cache.folder), 0.5 * size / 1e9, QUICK)
    fetch(tiny, server.url, names[4])
    assert sorted(path.name for path in cache.folder.glob("*/*.tar")) == [names[0], names[4]]
    assert "more than data.cache_limit" in caplog.text
    in_use.close()
    with in_use.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not in use any more
    expected = train(str(folder), cache)
    assert train(f"{server.url}/shards", tiny, num_workers=2) == expected, "a cache that is too small is only slow"
    with pytest.raises(ValueError, match="data.cache_limit is 0; set it to more than 0 GB"):
        ShardCache(limit=0)


def test_the_next_shard_is_prefetched(folder: Path, server, cache: ShardCache) -> None:
    (source,) = find_sources(f"{server.url}/shards", "train", cache)
    paths = shard_source.prefetched_paths(source.shards)
    next(paths)
    deadline = time.monotonic() + 10
    while not server.requests["train-000001.tar"] and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert server.requests["train-000001.tar"] == 1
    assert not server.requests["train-000002.tar"]
    paths.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with source.shards[1].path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            time.sleep(0.01)
    pytest.fail("a reader that stops early leaves its next shard locked")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("pipe:cat /etc/passwd", "no shell is ever run"),
        ("ftp://host/{split}.tar", "accepted are http, https, s3"),
        ("simplecache::http://host/{split}.tar", "data.shards begins with simplecache::http://"),
        ("https://me:secret@host/shards", "holds a user name or a password"),
        (
            "https://host/{split}.tar?sig=***",
            "is https://host/{split}.tar with \\*\\*\\* in it, because a URL is stored with",
        ),
        ("https://***@host/shards", "set data.shards, or shards of an evaluation, to the whole URL"),
    ],
)
def test_urls_that_are_not_accepted(url: str, reason: str, cache: ShardCache) -> None:
    with pytest.raises(ValueError, match=reason) as error:
        find_sources(url, "train", cache)
    assert "secret" not in str(error.value)
    assert not is_remote("data/{split}-{000000..000003}.tar")


def test_a_signature_is_in_no_message(server, cache: ShardCache) -> None:
    with pytest.raises(ValueError, match="nothing-train.tar: 404") as error:
        train(f"{server.url}/nothing-{{split}}.tar?X-Signature=secret", cache)
    assert "secret" not in str(error.value)


def test_object_stores_are_read_through_fsspec(folder: Path, cache: ShardCache) -> None:
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe_file(f"/bucket/{path.name}", path.read_bytes())
    try:
        assert train("memory://bucket", cache) == train(str(folder), cache)
        with pytest.raises(
            ValueError, match=r"memory://bucket/other-train.tar: FileNotFoundError; correct data.shards"
        ):
            train("memory://bucket/other-{split}.tar", cache)
    finally:
        files.rm("/bucket", recursive=True)


def test_a_missing_fsspec_package(cache: ShardCache, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)  # if it was imported before
    with pytest.raises(ValueError, match=r"s3:// URLs need s3fs.*: pip install 'prefixvlm\[s3\]'"):
        train("s3://bucket/shards", cache)


def test_errors_of_a_store_hide_their_text(cache: ShardCache, monkeypatch) -> None:
    def fail(url: str, **options: Any) -> None:
        raise RuntimeError("key AKIA-secret is wrong")

    monkeypatch.setattr(fsspec.core, "url_to_fs", fail)
    with pytest.raises(
        ValueError, match=r"s3://bucket/x/manifest.json was not fetched in 3 tries \(RuntimeError\)"
    ) as e:
        train("s3://bucket/x", cache)
    assert "secret" not in str(e.value)
    assert remote.without_query("s3://b/x.tar?a=b") == "s3://b/x.tar"
