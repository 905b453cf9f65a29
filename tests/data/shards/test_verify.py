"""`shards verify` reports all problems of a folder at once."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefixvlm.data.sample import VISUAL_EXTENSIONS
from prefixvlm.data.shards.manifest import MANIFEST, read_manifest, verify
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.verification.check import MAX_PROBLEMS
from prefixvlm.data.shards.verification.verify import verify_folder
from prefixvlm.data.shards.write import write_shards
from tests.data.conftest import Command, png, raw_samples, write_tar

Make = Callable[..., Path]
Members = Sequence[tuple[str, bytes]]


def members_of(path: Path) -> list[tuple[str, bytes]]:
    return [(f"{key}.{name}", data) for key, found in read_shard(path) for name, data in found.items()]


def problems(folder: Path, decode_images: bool = False, workers: int = 1) -> list[str]:
    with pytest.raises(ValueError, match=r" has \d+ problem") as error:
        verify_folder(folder, decode_images, workers)
    return [note.strip() for note in error.value.__notes__]


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content["splits"]["train"])
    (folder / MANIFEST).write_text(json.dumps(content))


def unlisted(folder: Path, members: Members, name: str = "train-000001.tar") -> Path:
    """Remove the manifest and replace one of the shards."""
    (folder / MANIFEST).unlink(missing_ok=True)
    write_tar(folder / name, members)
    return folder


@pytest.mark.parametrize("workers", [1, 2])
def test_a_whole_folder(make_shards: Make, workers: int) -> None:
    folder = make_shards(train=12, val=3)
    assert verify_folder(folder, True, workers).startswith(f"{folder} is whole: 15 samples in 4 shards\n")
    (folder / MANIFEST).unlink()
    assert "15 samples in 4 shards; without a manifest.json, no counts and bytes are checked\n" in verify_folder(folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_image_under_two_keys_is_found_by_its_bytes(tmp_path: Path, workers: int) -> None:
    def shards(name: str, train: list[int], val: list[int]) -> str:
        splits = {split: [(f"{split}{place}", {"png": png(number)}) for place, number in enumerate(numbers)]
                  for split, numbers in (("train", train), ("val", val))}  # fmt: skip
        write_shards(splits, tmp_path / name, "a test", "none", 3)
        return verify_folder(tmp_path / name, workers=workers).partition("shards")[2]

    assert shards("none", [1, 2, 3, 4], [5]) == ""
    assert shards("one", [1, 2, 3, 1], [5]) == "\nimages under several keys: 1; as train train0 and train train3"
    assert shards("two", [1, 2, 3, 1], [5, 3]) == (
        "\nimages under several keys: 2, 1 of them in several splits, so that a test may be of images that were "
        "trained on; as train train2 and val val1"
    )


def test_a_truncated_tar_is_found_also_at_the_boundary_of_a_member(make_shards: Make) -> None:
    folder = make_shards(train=12)
    path = folder / "train-000001.tar"
    for cut in (1024, 1024 * 4, 1500, path.stat().st_size - 1):
        data = path.read_bytes()
        path.write_bytes(data[:cut])
        found = problems(folder)
        assert found[0] == f"shard train-000001.tar has {cut} bytes and manifest.json says {len(data)}"
        assert cut > 9000 or "damaged or cut short" in found[1] or "cut short" in found[1]
        (folder / MANIFEST).rename(folder / "kept")
        if cut < 9000:  # the last bytes are padding
            assert "cut short" in problems(folder)[0]
        (folder / "kept").rename(folder / MANIFEST)
        path.write_bytes(data)
    verify_folder(folder)


def test_changed_bytes_and_a_missing_shard_are_both_named(make_shards: Make) -> None:
    folder = make_shards(train=23)
    data = bytearray((folder / "train-000001.tar").read_bytes())
    data[700] ^= 1  # in the padding of a member: nothing else tells
    (folder / "train-000001.tar").write_bytes(data)
    (folder / "train-000003.tar").unlink()
    assert problems(folder) == [
        "shard train-000001.tar has other bytes than manifest.json says (sha256)",
        "shard train-000003.tar is missing, though manifest.json has it",
    ]


def test_a_wrong_count(make_shards: Make) -> None:
    folder = make_shards(train=5)
    write_tar(folder / "train-000000.tar", members_of(folder / "train-000000.tar")[:-2])
    os.utime(folder / MANIFEST)
    assert "holds 4 samples, but manifest.json says 5" in problems(folder)[-1]


def test_half_samples(make_shards: Make) -> None:
    folder = make_shards(train=12)
    members = members_of(folder / "train-000001.tar")
    halves = [member for member in members if member[0] not in ("train006.json", "train007.png")]
    assert problems(unlisted(folder, halves)) == [
        f"shard train-000001.tar, sample train007: it needs exactly one of .{', .'.join(VISUAL_EXTENSIONS)}, but has 0",
        "shard train-000001.tar, sample train006 has no .json, as others of train have",
    ]


def test_images_without_texts_are_whole_where_none_has_any(tmp_path: Path) -> None:
    write_shards({"test": [(f"{n}", {"png": png(n)}) for n in range(3)]}, tmp_path / "out", "a test", "none")
    assert "is whole" in verify_folder(tmp_path / "out")


def test_a_repeated_key_within_a_shard_across_shards_and_across_splits(make_shards: Make) -> None:
    folder = make_shards(train=12, val=3)
    members = members_of(folder / "train-000001.tar")
    renamed = [(name.replace("train007", "train001"), data) for name, data in members]
    assert problems(unlisted(folder, renamed)) == [
        "the key train001 comes twice, in train-000000.tar and train-000001.tar"
    ]
    assert "sample train005 comes twice" in problems(unlisted(folder, [*members, *members[:2]]))[0]
    write_tar(folder / "train-000001.tar", members)
    write_tar(folder / "val-000001.tar", members)
    found = problems(folder)
    assert found[0] == "the key train005 comes twice, in train-000001.tar and val-000001.tar"
    assert len(found) == 5


def test_a_question_id_twice(make_shards: Make) -> None:
    folder = make_shards(train=12)
    members = members_of(folder / "train-000001.tar")
    again = [(name, data.replace(b'"train7-0"', b'"train1-0"')) for name, data in members]
    assert problems(unlisted(folder, again)) == [
        "the question id train1-0 comes twice, in train-000000.tar and train-000001.tar"
    ]


def test_tars_that_no_split_has(make_shards: Make) -> None:
    folder = make_shards(train=5)
    write_tar(folder / "trian-000001.tar", [("a.png", png())])
    assert problems(folder) == ["shard trian-000001.tar is in the folder, but manifest.json does not have it"]
    (folder / MANIFEST).unlink()
    assert problems(folder) == [
        "shard trian-000001.tar is named for none of train, val, test, as train-000000.tar is",
    ]
    (folder / "train-000000.tar").unlink()
    assert "is whole" in verify_folder(folder), "a pattern may name them so"


def test_wrong_totals_and_a_file_that_is_not_a_manifest(make_shards: Make, command: Command) -> None:
    folder = make_shards(train=5)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace('"samples": 5', '"samples": 6', 1))
    assert "its totals are {'samples': 6, " in problems(folder)[0]
    (folder / MANIFEST).write_text("[]")
    assert "is not a manifest of shards (Expected `object`, got `array`); make the shards again" in command(
        "verify", folder, code=2, out=None
    )
    path = folder / "train-000000.tar"
    assert f"{path} is a file; give its folder" in command("verify", path, code=2, out=None)


def test_every_wrong_member_is_named(make_shards: Make) -> None:
    folder = make_shards(train=5)
    members = members_of(folder / "train-000000.tar")
    found = problems(unlisted(folder, [("a.py", b""), *members, ("b.exe", b""), *members[:2]], "train-000000.tar"))
    assert [problem.split(": ", 1)[1][:22] for problem in found] == [
        "member 'a.py' is not K",
        "member 'b.exe' is not ",
        "sample train000 comes ",
    ]


def test_images_that_do_not_decode_only_when_asked(make_shards: Make) -> None:
    folder = make_shards(train=5)
    members = [
        (name, data[:40] if name == "train002.png" else data) for name, data in members_of(folder / "train-000000.tar")
    ]
    assert "is whole" in verify_folder(unlisted(folder, members, "train-000000.tar"))
    (problem,) = problems(folder, decode_images=True)
    assert problem.startswith("shard train-000000.tar, sample train002: the image does not decode")


def test_text_lengths_of_another_number(make_shards: Make) -> None:
    folder = make_shards(train=5)
    change_manifest(folder, lambda split: split["shards"][0].update(text_lengths=[3] * 6))
    assert problems(folder) == ["manifest.json has 6 text_lengths for the 5 samples of train-000000.tar"]


def test_text_lengths_that_are_damaged_missing_or_of_another_size(make_shards: Make) -> None:
    folder = make_shards(train=5)
    path = folder / "train.text_lengths"
    path.write_bytes(bytes(10))
    assert problems(folder) == ["train.text_lengths is missing or has other bytes than manifest.json says (sha256)"]
    with pytest.raises(ValueError, match=r"file .*train.text_lengths is not what manifest.json says"):
        verify(folder)
    path.unlink()
    assert problems(folder) == ["train.text_lengths is missing or has other bytes than manifest.json says (sha256)"]
    with pytest.raises(ValueError, match=r"file .*train.text_lengths is missing"):
        verify(folder)
    for change, reason in (
        ({"bytes": 12}, "train.text_lengths has 12 bytes, which are not 2 for each sample"),
        ({"bytes_each": 8}, "text_lengths"),
        ({"name": "../x"}, "the name of text lengths is '../x'"),
        ({"name": MANIFEST}, "the name of text lengths is 'manifest.json'"),
    ):
        text = (folder / MANIFEST).read_text()
        change_manifest(folder, lambda split, change=change: split["text_lengths"].update(change))
        with pytest.raises(ValueError, match=re.escape(reason)):
            read_manifest(folder)
        (folder / MANIFEST).write_text(text)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_list_of_problems_is_bounded(tmp_path: Path, workers: int) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"train-{shard}.tar", [(f"{shard}-{n}.json", b"{}") for n in range(30)])
    found = problems(tmp_path, workers=workers)
    assert len(found) == MAX_PROBLEMS + 1
    assert found[-1] == f"and {90 - MAX_PROBLEMS} more"
    assert "sample 0-0:" in found[0]


def test_the_command(make_shards: Make, command: Command) -> None:
    folder = make_shards(train=12)

    def run(*arguments: object, code: int = 0) -> str:
        return command("verify", *arguments, code=code, out=None)

    assert "is whole: 12 samples" in run(folder)
    assert "is whole: 12 samples" in run("--out", folder, "--decode")
    assert "the folder is both" in run(folder, "--out", folder.parent, code=2)
    assert "--workers: 0 is not 1 or more" in command("verify", folder, code=2, out=None, workers=0)
    (folder / "train-000000.tar").unlink()
    (folder / "train-000001.tar").write_bytes(b"")
    lines = run(folder, code=2).splitlines()
    assert f"error: {folder} has 3 problems" in lines[-4]
    assert "train-000000.tar is missing" in lines[-3]
    assert "the folder is not given" in run("--decode", code=2)
    assert "there is no folder" in run(folder / "no", code=2)
    with pytest.raises(ValueError, match="holds neither a manifest.json nor .tar files"):
        verify_folder(folder.parent)


def test_an_older_manifest_has_no_text_lengths_and_no_options(make_shards: Make) -> None:
    folder = make_shards(train=5)
    content = json.loads((folder / MANIFEST).read_text())
    del content["options"], content["splits"]["train"]["text_lengths"]
    (folder / MANIFEST).write_text(json.dumps(content))
    (folder / "train.text_lengths").unlink()
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.splits["train"].text_lengths is None
    assert "is whole" in verify_folder(folder)
    write_shards({"train": raw_samples(5, "train")}, folder, "a test", "none", 5)  # still the same shards
