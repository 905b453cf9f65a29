"""`shards show`: the table and the contact sheet."""

import json
from pathlib import Path

import pytest
from PIL import Image

from prefixvlm.data.shards import statistics
from prefixvlm.data.shards.manifest import MANIFEST
from prefixvlm.data.shards.show import CELL, COLUMNS, LINE, LINES, MARGIN, MAX_KEY, _fonts, shorten, show
from prefixvlm.data.shards.statistics import Frequencies
from prefixvlm.data.shards.write import write_shards
from tests.data.conftest import Command, png, write_tar

STEP = (CELL + 2 * MARGIN, CELL + LINES * LINE + 2 * MARGIN)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """100 train samples, the first half red, the second blue; 2 val samples."""
    asked = {"id": "q", "question": "what colour?", "answers": ["red", "crimson"]}
    first = {"captions": ["A red dog.", "red"], "questions": [asked], "labels": {"kind": "dog"}}
    train = [(f"t{n}", {"png": png("red", (8, 6)), "json": json.dumps(first).encode()}) for n in range(50)]
    train += [(f"t{n}", {"png": png("blue", (4, 16)), "txt": b"blue sky"}) for n in range(50, 100)]
    val = [(f"v{n}", {"png": png("lime", (8, 8))}) for n in range(2)]
    write_shards({"train": train, "val": val}, tmp_path / "out", "a test", "none", 30)
    return tmp_path / "out"


def rows(table: str) -> dict[str, str]:
    return {line[:24].strip(): line[24:].strip() for line in table.splitlines()[1:]}


def test_the_table(folder: Path, tmp_path: Path) -> None:
    train, val = show(folder, None, tmp_path / "sheet.png").split("\n\n")
    found = rows(train)
    assert (train.splitlines()[0], val.splitlines()[0]) == ("train", "val")
    assert found["samples"] == "100"
    assert found["do not decode"] == "0"
    assert found["image width"] == "6.0 (4 ... 8)"
    assert found["image height"] == "11.0 (6 ... 16)"
    assert found["captions a sample"] == "1.5 (1 ... 2)"
    assert found["questions a sample"] == "0.5 (0 ... 1)"
    assert found["characters a caption"] == "7.0 (3 ... 10)"
    assert found["answers a question"] == "2.0 (2 ... 2)"
    assert found["words"] == "red 100, a 50, blue 50, colour 50, dog 50, sky 50, what 50"
    assert found["answers"] == "crimson 50, red 50"
    assert found["labels"] == "kind: dog 50"
    assert rows(val)["samples"] == "2"
    assert rows(val)["characters a caption"] == "-"


def test_the_picture_shows_samples_spread_evenly(folder: Path, tmp_path: Path) -> None:
    show(folder, "train", tmp_path / "sheet.png")
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (8 * STEP[0], 4 * STEP[1])
    middles = [
        sheet.getpixel((number % COLUMNS * STEP[0] + STEP[0] // 2, number // COLUMNS * STEP[1] + MARGIN + CELL - 20))
        for number in range(32)
    ]
    assert middles == [(255, 0, 0)] * 16 + [(0, 0, 255)] * 16
    text = sheet.crop((MARGIN, MARGIN + CELL, MARGIN + CELL, STEP[1])).convert("L")
    assert text.getextrema()[0] < 100, "nothing is written under the first"


def test_a_folder_without_manifest_and_with_bad_samples(folder: Path, tmp_path: Path) -> None:
    (folder / MANIFEST).unlink()
    write_tar(folder / "val-000000.tar", [("v0.png", png("lime", (8, 8))), ("v1.txt", b"half a sample")])
    val = show(folder, "val", tmp_path / "sheet.png")
    assert rows(val)["samples"] == "2"
    assert rows(val)["do not decode"] == "1"
    assert "train" not in val
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * STEP[0], STEP[1])


def test_the_command(folder: Path, command: Command) -> None:
    def run(*arguments: object, code: int = 0) -> str:
        return command("show", *arguments, code=code, workers=None, out=None)

    assert f"{folder}/sheet.png shows some of them" in run(folder, "--split", "val")
    assert (folder / "sheet.png").is_file()
    assert "holds no x, only train, val" in run(folder, "--split", "x", code=2)
    assert "there is no folder" in run(folder / "no", code=2)
    assert "train-000000.tar is a file; give its folder" in run(folder / "train-000000.tar", code=2)
    assert "in a folder that there is" in run(folder, "--out", folder / "no" / "sheet.png", code=2)
    assert "holds neither a manifest.json nor .tar files" in run(folder.parent, code=2)


def test_letters_that_no_font_has_are_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefixvlm.data.shards.show.FONTS", ("DejaVuSans.ttf",))
    _fonts.cache_clear()
    texts = ("\u9999\u8549 a b" if n % 2 else "r\u00e9d" for n in range(8))
    train = [(f"t{n}", {"png": png(), "txt": text.encode()}) for n, text in enumerate(texts)]
    write_shards({"train": train}, tmp_path / "out", "a test", "none")
    table = show(tmp_path / "out", None, tmp_path / "sheet.png")
    assert table.count("No font was found here for \u9999 \u8549, so boxes stand") == 1
    write_shards({"train": train[::2]}, tmp_path / "latin", "a test", "none")
    assert "No font" not in show(tmp_path / "latin", None, tmp_path / "sheet.png")
    _fonts.cache_clear()


def test_both_ends_of_a_long_key_are_shown() -> None:
    assert shorten("a/b") == "a/b"
    assert shorten("animals/of/the/world/a/cat-000001") == "animals/of/...a/cat-000001"
    assert len(shorten("x" * 99)) == MAX_KEY


def test_frequencies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MAX_TEXTS", 10)
    found = Frequencies()
    for number in range(1000):
        found.add("often", str(number))
    assert len(found.counts) <= 20
    assert str(found).startswith("often 1000, ")
