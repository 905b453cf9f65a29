"""The table counts what is there, and the picture shows it."""

import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from prefixvlm import cli
from prefixvlm.data import statistics
from prefixvlm.data.manifest import MANIFEST
from prefixvlm.data.show import CELL, COLUMNS, LINE, LINES, MARGIN, show
from prefixvlm.data.statistics import Frequencies
from prefixvlm.data.writer import write_shards
from tests.data.test_verify import write_tar

STEP = (CELL + 2 * MARGIN, CELL + LINES * LINE + 2 * MARGIN)


def image(colour: str, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """100 train samples, the first half red, the second blue; 2 val samples."""
    asked = {"id": "q", "question": "what colour?", "answers": ["red", "crimson"]}
    first = {"captions": ["A red dog.", "red"], "questions": [asked], "labels": {"kind": "dog"}}
    train = [(f"t{n}", {"png": image("red", (8, 6)), "json": json.dumps(first).encode()}) for n in range(50)]
    train += [(f"t{n}", {"png": image("blue", (4, 16)), "txt": b"blue sky"}) for n in range(50, 100)]
    val = [(f"v{n}", {"png": image("lime", (8, 8))}) for n in range(2)]
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
    write_tar(folder / "val-000000.tar", [("v0.png", image("lime", (8, 8))), ("v1.txt", b"half a sample")])
    val = show(folder, "val", tmp_path / "sheet.png")
    assert rows(val)["samples"] == "2"
    assert rows(val)["do not decode"] == "1"
    assert "train" not in val
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * STEP[0], STEP[1])


def test_the_command(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", "show", str(folder), "--split", "val"])
    cli.main()
    assert f"{folder}/sheet.png shows some of them" in capsys.readouterr().out
    assert (folder / "sheet.png").is_file()
    for wrong, sentence in (
        ([str(folder), "--split", "x"], "holds no x, only train, val"),
        ([str(folder / "no")], "there is no folder"),
        ([str(folder.parent)], "holds neither a manifest.json nor .tar files"),
    ):
        monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", "show", *wrong])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert exit_.value.code == 2
        assert sentence in capsys.readouterr().err


def test_frequencies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "KEPT", 10)
    found = Frequencies()
    for number in range(1000):
        found.add("often", str(number))
    assert len(found.counts) <= 20
    assert str(found).startswith("often 1000, ")
