"""Shards are written whole or not at all, and never over something else."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefixvlm.data.manifest import MANIFEST, Manifest
from prefixvlm.data.shards import RawSample, read_shard
from prefixvlm.data.writer import write_shards
from tests.data.conftest import png, raw_samples


def write(out: Path, samples_per_shard: int = 5, source: str = "a test", count: int = 12) -> Manifest:
    splits = {"train": raw_samples(count), "val": raw_samples(3, "v")}
    return write_shards(splits, out, source, "none", samples_per_shard)


def test_shards_and_manifest(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    write(out)
    assert sorted(os.listdir(out)) == [MANIFEST, *(f"train-00000{n}.tar" for n in range(3)), "val-000000.tar"]
    assert os.listdir(tmp_path / "deep") == ["out"]
    read = [sample for n in range(3) for sample in read_shard(out / f"train-00000{n}.tar")]
    assert [(key, dict(sorted(members.items()))) for key, members in read] == [
        (key, dict(sorted(members.items()))) for key, members in raw_samples(12)
    ]
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["totals"]["samples"] == 15
    assert [shard["samples"] for shard in manifest["splits"]["train"]["shards"]] == [5, 5, 2]
    assert (manifest["source"], manifest["licence"]) == ("a test", "none")


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name)
    for name in os.listdir(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_second_run_does_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = write(tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}

    def untouched() -> Iterator[RawSample]:
        raise AssertionError("the source is read again")
        yield

    again = write_shards({"train": untouched(), "val": untouched()}, tmp_path / "out", "a test", "none", 5)
    assert again == first
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert "nothing to do" in capsys.readouterr().out


def test_something_else_is_never_overwritten(tmp_path: Path) -> None:
    write(tmp_path / "out")
    for change in ({"source": "another"}, {"samples_per_shard": 4}):
        with pytest.raises(ValueError, match="out exists and does not hold these shards; delete it or give another"):
            write(tmp_path / "out", **change)
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-000001.tar is not what manifest.json says; delete the folder"):
        write(tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file exists and does not hold"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupted() -> Iterator[RawSample]:
        yield from raw_samples(7)
        raise error

    with pytest.raises(error):
        write_shards({"train": raw_samples(9), "val": interrupted()}, tmp_path / "out", "a test", "none", 5)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_swept(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    stale = [tmp_path / f".out.{pid}.partial" for pid in (gone.pid, os.getpid())]
    running = tmp_path / f".out.{os.getppid()}.partial"
    for folder in [*stale, running]:
        folder.mkdir()
    write(tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == sorted([running, tmp_path / "out"])


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    code = f"""
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.data.conftest import raw_samples
from prefixvlm.data.writer import write_shards
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    write_shards({{"train": raw_samples(50)}}, Path({str(tmp_path)!r}) / "out", "a test", "none")
except OSError as error:
    print("OSError", error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("OSError")
    assert os.listdir(tmp_path) == []


def test_what_does_not_decode_is_left_out_with_its_reason(tmp_path: Path) -> None:
    bad = [("broken", {"png": png()[:30]}), ("a.b", {"png": png()}), ("virus", {"png": png(), "pickle": b""})]
    manifest = write_shards({"train": [*bad, *raw_samples(2)]}, tmp_path / "out", "a test", "none")
    assert manifest.num_samples("train") == 2
    left_out = manifest.splits["train"].left_out
    assert list(left_out) == ["broken", "a.b", "virus"]
    assert "does not decode" in left_out["broken"]
    assert [key for key, _ in read_shard(tmp_path / "out" / "train-000000.tar")] == ["s000", "s001"]


def test_repeated_keys_and_empty_splits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the key s000 comes twice in the train split"):
        write_shards({"train": [*raw_samples(2), *raw_samples(1)]}, tmp_path / "out", "a test", "none")
    with pytest.raises(ValueError, match=r"a test: no val samples to write \(val, sample k: .*does not decode"):
        write_shards({"train": raw_samples(2), "val": [("k", {"png": b""})]}, tmp_path / "out", "a test", "none")
    with pytest.raises(ValueError, match=r"no train samples to write \(there are none\)"):
        write_shards({"train": []}, tmp_path / "out", "a test", "none")
    with pytest.raises(ValueError, match="samples_per_shard is 0"):
        write(tmp_path / "out", samples_per_shard=0)
    assert os.listdir(tmp_path) == []
