"""Shards are written whole or not at all, never overwrite anything, and an interrupted run is continued."""

import io
import json
import multiprocessing
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from webdataset.writer import TarWriter

from prefixvlm import cli
from prefixvlm.data.shards.manifest import MANIFEST, Manifest
from prefixvlm.data.shards.read import RawSample, read_shard
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.tar_writer import SampleOrError
from prefixvlm.data.shards.worker_pool import run
from prefixvlm.data.shards.write import write_shards
from prefixvlm.sentences import sentence
from tests.data.conftest import png, raw_samples


def write(out: Path, samples_per_shard: int = 5, source: str = "a test", count: int = 12) -> Manifest:
    splits = {"train": raw_samples(count), "val": raw_samples(3, "v")}
    return write_shards(splits, out, source, "none", samples_per_shard)


def test_shards_and_manifest(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    write(out)
    assert sorted(os.listdir(out)) == [
        MANIFEST, *(f"train-00000{n}.tar" for n in range(3)), "train.text_lengths", "val-000000.tar", "val.text_lengths"
    ]  # fmt: skip
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
        with pytest.raises(ValueError, match="out exists and does not hold these shards; delete it or give") as caught:
            write(tmp_path / "out", **change)
        ((name, value),) = change.items()
        assert f"its {name} is " in str(caught.value)
        assert str(caught.value).endswith(f"and not {value!r})")
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"")
    with pytest.raises(ValueError, match=r"train-000001.tar is not what manifest.json says; delete the folder"):
        write(tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file exists and does not hold"):
        write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_what_webdataset_would(tmp_path: Path, workers: int) -> None:
    samples = list(raw_samples(23))
    write_shards({"train": samples}, tmp_path / "out", "a test", "none", 5, workers)
    for number in range(5):
        buffer = io.BytesIO()
        with TarWriter(buffer, encoder=False, mtime=0, format="PAX_FORMAT") as tar:
            for key, members in samples[5 * number :][:5]:
                tar.write({"__key__": key, **members})
        assert (tmp_path / "out" / f"train-00000{number}.tar").read_bytes() == buffer.getvalue()


def interrupted(after: int, error: BaseException) -> Iterator[RawSample]:
    yield from raw_samples(after, "v")
    raise error


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), OSError()])
def test_an_interrupted_run_is_continued(
    tmp_path: Path, error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)):
        write_shards({"train": raw_samples(9), "val": interrupted(7, error)}, tmp_path / "out", "a test", "none", 5)
    assert os.listdir(tmp_path) == [".out.partial"]
    before = {path.name: path.stat() for path in (tmp_path / ".out.partial" / "shards").iterdir()}
    assert set(before) == {"train-000000.tar", "train-000001.tar", "val-000000.tar"}
    write_shards({"train": raw_samples(9), "val": raw_samples(7, "v")}, tmp_path / "out", "a test", "none", 5)
    write_shards({"train": raw_samples(9), "val": raw_samples(7, "v")}, tmp_path / "whole", "a test", "none", 5)
    assert sorted(os.listdir(tmp_path)) == ["out", "whole"]
    assert_same_files(tmp_path / "out", tmp_path / "whole")
    for name, stat in before.items():
        assert (tmp_path / "out" / name).stat().st_mtime_ns == stat.st_mtime_ns
    printed = "Finished shards are kept in" in capsys.readouterr().err
    assert printed == isinstance(error, KeyboardInterrupt)


def assert_same_files(one: Path, other: Path) -> None:
    assert sorted(os.listdir(one)) == sorted(os.listdir(other))
    for name in os.listdir(one):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("change", [{"source": "another"}, {"samples_per_shard": 4}, {"encoding": ReencodeOptions(2)}])
def test_what_is_finished_of_another_plan_is_not_used(tmp_path: Path, change: dict[str, Any]) -> None:
    same: dict[str, Any] = {"source": "a test", "licence": "none", "samples_per_shard": 5}
    with pytest.raises(RuntimeError):
        write_shards({"train": interrupted(12, RuntimeError())}, tmp_path / "out", **same)
    kept = sorted((tmp_path / ".out.partial").rglob("*"))
    with pytest.raises(ValueError, match=r"with other arguments or files has finished; .* \(rm -r .*\.out\.partial\)"):
        write_shards({"train": raw_samples(4, "v")}, tmp_path / "out", **same | change)
    assert sorted((tmp_path / ".out.partial").rglob("*")) == kept
    shutil.rmtree(tmp_path / ".out.partial")
    write_shards({"train": raw_samples(4, "v")}, tmp_path / "out", **same | change)
    write_shards({"train": raw_samples(4, "v")}, tmp_path / "whole", **same | change)
    assert_same_files(tmp_path / "out", tmp_path / "whole")


def test_changed_samples_and_damaged_or_additional_shards_are_not_used(tmp_path: Path) -> None:
    def changed(number: int, count: int = 22) -> list[RawSample]:
        samples = list(raw_samples(count))
        samples[number] = (samples[number][0], {"png": png(9)})
        return samples

    with pytest.raises(RuntimeError):
        write_shards({"train": [*raw_samples(20), *raw_samples(1, "x")], "val": interrupted(1, RuntimeError())},
                     tmp_path / "out", "a test", "none", 5)  # fmt: skip
    partial = tmp_path / ".out.partial"
    os.truncate(partial / "shards" / "train-000002.tar", 100)
    (partial / "done" / "train-000003.tar.json").write_text("{")
    (partial / "shards" / ".train-000000.tar.7.tmp").write_text("of a killed run")
    write_shards({"train": changed(2, 20), "val": raw_samples(1)}, tmp_path / "out", "a test", "none", 5)
    write_shards({"train": changed(2, 20), "val": raw_samples(1)}, tmp_path / "whole", "a test", "none", 5)
    assert_same_files(tmp_path / "out", tmp_path / "whole")


def test_a_changed_file_is_written_anew(tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(png(1))

    def samples(more: list[RawSample]) -> Iterator[SampleOrError]:
        yield "a", {"png": image}
        yield from more
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shards({"train": samples([])}, tmp_path / "out", "a test", "none", 1)
    with pytest.raises(RuntimeError):
        write_shards({"train": samples(list(raw_samples(1)))}, tmp_path / "out", "a test", "none", 1)
    image.write_bytes(png(20))
    write_shards({"train": [("a", {"png": image})]}, tmp_path / "out", "a test", "none", 1)
    assert list(read_shard(tmp_path / "out" / "train-000000.tar")) == [("a", {"png": png(20)})]


def test_two_writers_never_share_a_folder(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[RawSample]:
        yield from raw_samples(6)
        code = "from pathlib import Path; from tests.data.shards.test_write import write; write(Path(sys.argv[1]))"
        arguments = [sys.executable, "-c", f"import sys; {code}", tmp_path / "out"]
        other = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
        assert "out; wait for it or give another --out" in other.stderr.replace("\n", " ")

    write_shards({"train": meanwhile()}, tmp_path / "out", "a test", "none", 5)
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_is_one_sentence_and_keeps_what_is_finished(tmp_path: Path) -> None:
    big = [(f"big{number}", {"png": png(), "txt": b"x" * 30_000}) for number in range(5)]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (25_000, limits[1]))  # Python ignores its signal
    try:
        with pytest.raises(OSError, match="File too large") as error:
            write_shards({"train": [*raw_samples(5), *big]}, tmp_path / "out", "a test", "none", 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    shards = tmp_path / ".out.partial" / "shards"
    assert sentence(error.value) == f"File too large: {shards}/train-000001.tar"
    assert os.listdir(shards) == ["train-000000.tar"]
    assert not (tmp_path / "out").exists()


def dying(task: int) -> Iterator[int]:
    yield task
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    yield task


def failing(task: int) -> Iterator[int]:
    yield task
    raise ValueError(f"{task} is wrong")


@pytest.mark.parametrize(
    ("function", "error", "text"), [(dying, OSError, "died (exit code -9"), (failing, ValueError, "is wrong")]
)
def test_a_dying_or_failing_worker_is_one_sentence_and_none_is_left(function: Any, error: Any, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        list(run(function, range(5), workers=2))
    assert not multiprocessing.active_children()


def test_workers_are_no_more_than_tasks() -> None:
    assert sorted(run(dying, [1, 2], workers=8)) == [1, 1, 2, 2]
    assert list(run(dying, [], workers=2)) == []
    with pytest.raises(ValueError, match="the number of workers is 0; set --workers"):
        list(run(dying, [], workers=0))


NUM_IMAGES = 500  # so many that the command is not done before it is stopped


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with a table whose shards take some seconds to write, and the shards of an undisturbed run."""
    folder = make_table(tmp_path_factory.mktemp("table"))
    run_command(command(folder, folder / "whole", 1))
    return folder, folder / "whole"


def make_table(folder: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.jpg", quality=95)
    with (folder / "table.csv").open("w") as file:
        file.write("image,caption\n")
        for number in range(NUM_IMAGES):
            os.link(folder / "noise.jpg", folder / f"{number}.jpg")
            file.write(f"{number}.jpg,noise {number}\n")
    return folder


def command(folder: Path, out: Path, workers: int) -> list[str]:
    given: list[object] = ["--table", folder / "table.csv", "--images", folder, "--samples-per-shard", "5"]
    return ["prefixvlm", "shards", "table", *map(str, given), "--workers", str(workers), "--out", str(out)]


def run_command(arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", arguments)
        cli.main()


def alive(group: int) -> list[str]:
    """Return the processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            found += [path.parent.name] if int(fields[2]) == group and fields[0] != "Z" else []
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("kill", "code"),
    [
        (lambda process: os.killpg(process.pid, signal.SIGKILL), -9),
        (lambda process: process.kill(), -9),  # the workers notice
        (lambda process: os.killpg(process.pid, signal.SIGINT), 130),  # as a terminal does at Ctrl-C
    ],
)
def test_a_killed_command_is_continued(table: tuple[Path, Path], tmp_path: Path, kill: Any, code: int) -> None:
    folder, whole = table
    partial = tmp_path / ".out.partial"
    arguments = [sys.executable, "-m", "prefixvlm.cli", *command(folder, tmp_path / "out", 2)[1:]]
    process = subprocess.Popen(arguments, start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while len(list(partial.glob("done/*.json"))) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill(process)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == code
    assert b"Traceback" not in errors
    while alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    finished = {path.stem: (partial / "shards" / path.stem).stat() for path in partial.glob("done/*.json")}
    assert 4 <= len(finished) < NUM_IMAGES / 5
    run_command(command(folder, tmp_path / "out", 1))
    assert os.listdir(tmp_path) == ["out"]
    assert_same_files(tmp_path / "out", whole)
    for name, before in finished.items():
        after = (tmp_path / "out" / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), f"{name} was written again"


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
