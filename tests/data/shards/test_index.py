"""`shards index` writes the manifest of tars that have none, also at URLs."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefixvlm import cli
from prefixvlm.data.loading.mixture import find_sources
from prefixvlm.data.loading.train_loader import TrainLoader
from prefixvlm.data.remote import Patience
from prefixvlm.data.shard_cache import ShardCache
from prefixvlm.data.shards.index import index, tars
from prefixvlm.data.shards.manifest import MANIFEST, read_manifest
from prefixvlm.data.shards.verification.verify import verify_folder
from tests.data.conftest import Command

Make = Callable[..., Path]
QUICK = Patience(timeout=0.5, tries=2, pause=0.01)


@pytest.fixture
def folder(make_shards: Make) -> Path:
    """Tars without a manifest."""
    folder = make_shards(5, "shards", train=23, val=4)
    (folder / MANIFEST).rename(folder.parent / "former.json")
    for path in folder.glob("*.text_lengths"):
        path.unlink()
    return folder


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (index, tars):
        monkeypatch.setattr(module, "PATIENCE", QUICK)


def content(path: Path) -> Any:
    splits = json.loads(path.read_text())["splits"]
    return {name: (split["text_lengths"], [{**shard, "url": ""} for shard in split["shards"]])
            for name, split in splits.items()}  # fmt: skip


def names_of(out: Path) -> dict[str, list[str]]:
    return {name: [shard["name"] for shard in each] for name, (_, each) in content(out / MANIFEST).items()}


def keys(samples: Any, rng: Any) -> list[str]:
    return [sample.key for sample in samples]


def train(shards: str, cache: ShardCache, **kwargs: Any) -> list[list[str]]:
    return list(TrainLoader(find_sources(shards, "train", cache), 4, keys, 6, **kwargs))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_gets_the_manifest_that_its_writer_would_have_written(
    folder: Path, command: Command, workers: int
) -> None:
    shown = command("index", folder, out=None, workers=workers)
    assert f"{folder}: 23 train samples; set data.shards={folder}" in shown
    assert content(folder / MANIFEST) == content(folder.parent / "former.json")
    assert "is whole: 27 samples" in verify_folder(folder)
    assert not (folder.parent / ".shards.partial").exists()
    assert "already; delete it to index anew" in command("index", folder, out=None)
    (folder / "train-000009.tar").write_bytes((folder / "train-000000.tar").read_bytes())
    assert "manifest.json is of other shards" in command("index", folder, out=None, code=2)


def test_a_pattern_of_urls_is_indexed_and_then_trained_on_without_fetching_ahead(
    folder: Path, tmp_path: Path, command: Command, server: Any
) -> None:
    pattern = f"{server.url}/shards/{{split}}-{{000000..000004}}.tar"
    shown = command("index", pattern, "--splits", "train")
    out = tmp_path / "out"
    assert f"{out}: 23 train samples; set data.shards={out}" in shown
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, "train.text_lengths"], "no tar is kept"
    assert content(out / MANIFEST)["train"] == content(tmp_path / "former.json")["train"]
    manifest = read_manifest(out, check_totals=True)
    assert manifest is not None
    assert manifest.splits["train"].shards[3].url == f"{server.url}/shards/train-000003.tar"
    assert manifest.source == f"the tars of {pattern}"
    names = [f"train-00000{number}.tar" for number in range(5)]
    assert [server.requests[name] for name in names] == [1] * 5

    cache = ShardCache(str(tmp_path / "cache"), patience=QUICK)
    (source,) = find_sources(str(out), "train", cache)
    assert source.counts == [5, 5, 5, 5, 3]
    loader = TrainLoader([source], 4, keys, 6, bucket_batches=2)
    assert [server.requests[name] for name in names] == [1] * 5, "nothing is fetched to count, or for text lengths"
    (tmp_path / "former.json").rename(folder / MANIFEST)
    for name in ("train", "val"):
        (folder / f"{name}.text_lengths").write_bytes((out / "train.text_lengths").read_bytes())
    assert list(loader) == train(str(folder), cache, bucket_batches=2)
    assert [server.requests[name] for name in names] == [2] * 5
    (folder / names[0]).write_bytes((folder / names[1]).read_bytes())
    next(cache.folder.glob(f"*/{names[0]}")).unlink()
    with pytest.raises(ValueError, match=r"its sha256 is not what its manifest says"):
        train(str(out), cache)
    assert "is an index of shards at URLs" in command("verify", out, code=2, out=None)


def test_splits_of_a_pattern(folder: Path, tmp_path: Path, command: Command, server: Any) -> None:
    for number in range(4):
        (tmp_path / f"{number:05d}.tar").write_bytes((folder / f"train-00000{number}.tar").read_bytes())
    command("index", f"{server.url}/{{00000..00003}}.tar", "--val-tars", 1, "--test-tars", 2)
    assert names_of(tmp_path / "out") == {
        "train": ["00000.tar"], "test": ["00001.tar", "00002.tar"], "val": ["00003.tar"]
    }  # fmt: skip
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.tar").write_bytes((folder / f"{split}-000000.tar").read_bytes())
    command("index", f"{server.url}/{{split}}/{{0..0}}.tar", out=tmp_path / "b")
    assert names_of(tmp_path / "b") == {
        "train": ["train-0.tar"], "val": ["val-0.tar"]
    }  # fmt: skip
    cache = ShardCache(str(tmp_path / "cache"), patience=QUICK)
    assert len(train(str(tmp_path / "b"), cache)) == 1


def test_damaged_and_missing_shards_are_named_and_the_others_indexed(
    folder: Path, tmp_path: Path, command: Command, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (folder / "train-000001.tar").read_bytes()
    (folder / "train-000001.tar").write_bytes(data.replace(b"train006", b"xrain006"))  # headers: their sum is wrong
    (folder / "train-000003.tar").unlink()
    pattern = f"{server.url}/shards/{{split}}-{{000000..000004}}.tar"
    for _ in range(2):  # again: it is said again
        arguments = ["index", pattern, "--splits", "train", "--workers", "1", "--out", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == 1
    split = json.loads((tmp_path / "out" / MANIFEST).read_text())["splits"]["train"]
    assert [shard["name"] for shard in split["shards"]] == [f"train-00000{n}.tar" for n in (0, 2, 4)]
    assert split["left_out"].keys() == {"train-000001.tar", "train-000003.tar"}
    assert split["left_out"]["train-000003.tar"].startswith(f"{server.url}/shards/train-000003.tar: 404")
    assert split["left_out"]["train-000001.tar"].startswith(f"shard {server.url}/shards/train-000001.tar")
    assert str(tmp_path) not in json.dumps(split)


def test_shards_that_are_not_reached_are_tried_again_and_the_others_not(
    folder: Path, tmp_path: Path, command: Command, server: Any
) -> None:
    pattern = f"{server.url}/shards/{{split}}-{{000000..000004}}.tar"
    server.faults["train-000002.tar"] = ("500", 2)
    shown = command("index", pattern, "--splits", "train", code=2)
    assert "error: 1 of 5 shards were not reached, as: " in shown
    assert "train-000002.tar was not fetched in 2 tries (500 " in shown
    assert not (tmp_path / "out").exists()
    before = dict(server.requests)
    command("index", pattern, "--splits", "train")
    assert {name for name in before if server.requests[name] > before[name]} == {"train-000002.tar"}
    assert content(tmp_path / "out" / MANIFEST)["train"] == content(tmp_path / "former.json")["train"]


def test_no_network_ends_soon(tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MAX_UNREACHED", 3)
    shown = command("index", "http://127.0.0.1:9/{00000..99999}.tar", code=2)
    assert "error: 3 of 100000 shards were not reached, as: http://127.0.0.1:9/00000.tar was not fetched" in shown


@pytest.mark.slow
def test_a_killed_index_goes_on(folder: Path, tmp_path: Path, command: Command, server: Any) -> None:
    pattern = f"{server.url}/shards/{{split}}-{{000000..000004}}.tar"
    server.faults["train-000003.tar"] = ("slow", 1)
    arguments = ["index", pattern, "--splits", "train", "--workers", "1", "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "prefixvlm.cli", "shards", *arguments], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not server.requests["train-000003.tar"] and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = dict(server.requests)
    command("index", pattern, "--splits", "train")
    assert [server.requests[f"train-00000{n}.tar"] - before.get(f"train-00000{n}.tar", 0) for n in range(5)] == [
        0, 0, 0, 1, 1
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [MANIFEST, "train.text_lengths"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["https://host/{split}.tar"], "--out is not given; shards at URLs need a folder"),
        (["https://host/x-{0..3}.tar?sig=secret", "--out", "x"], "https://host/x-{0..3}.tar has a ?"),
        (["https://host/folder", "--out", "x"], "is not a pattern of tars"),
        (["https://host/*.tar", "--out", "x"], "a server does not list its files"),
        (["https://me:secret@host/{split}.tar", "--out", "x"], "holds a user name or a password"),
        (["https://host/{0..3}.tar", "--out", "x", "--val-tars", "4"], "of 4 tars 4 are val and 0 test"),
        (["https://host/{0..3}.tar", "--out", "x", "--val-tars", "-1"], "set them to 0 or more"),
        (["https://host/{split}.tar", "--out", "x", "--val-tars", "1"], "have no meaning; leave them out"),
        (["nowhere"], "there is no folder nowhere"),
        (["a/{split}-*.tar"], "is a pattern; give the folder"),
        (["a", "--out", "b"], "leave --out away"),
    ],
)
def test_wrong_arguments(arguments: list[str], reason: str, tmp_path: Path, command: Command, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shown = command("index", *arguments, out=None, code=2)
    assert reason in shown
    assert "secret" not in shown
    assert not list(tmp_path.iterdir())


def test_a_folder_without_tars_or_with_none_that_is_whole(tmp_path: Path, command: Command) -> None:
    (tmp_path / "a").mkdir()
    assert "holds no .tar files" in command("index", tmp_path / "a", out=None, code=2)
    (tmp_path / "a" / "train-0.tar").write_bytes(b"no tar")
    assert "there are no train samples to index (shard " in command("index", tmp_path / "a", out=None, code=2)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["train-0.tar"]


@pytest.mark.parametrize("url", ["pipe:cat /etc/passwd", "file:///etc/passwd", "https://a:b@host/x.tar", "/x.tar",
                                 "https://host/x.tar?signature=1"])  # fmt: skip
def test_a_hostile_url_in_a_manifest(folder: Path, command: Command, url: str) -> None:
    command("index", folder, out=None)
    text = json.loads((folder / MANIFEST).read_text())
    text["splits"]["train"]["shards"][0]["url"] = url
    (folder / MANIFEST).write_text(json.dumps(text))
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest of shards \("):
        read_manifest(folder)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("http://127.0.0.1:9/{2023,2024}/{000..001}.tar", "2 tars have the name -000.tar"),
        ("http://127.0.0.1:9/a:{000..001}.tar", "the tar 'a:000.tar' has a letter in its name"),
    ],
)
def test_names_that_no_manifest_can_hold_are_refused_before_anything_is_fetched(
    command: Command, pattern: str, reason: str
) -> None:
    assert reason in command("index", pattern, code=2)
