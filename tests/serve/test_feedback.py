"""Corrections: recorded by several processes, summarised, and written as shards."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
from PIL import Image

from prefixvlm import cli
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.sources.feedback import read_corrections
from prefixvlm.serve.feedback import record
from tests.data.conftest import command, encoded  # noqa: F401  # a fixture
from tests.data.test_sources import read

RED, BLUE, GREEN = (encoded(Image.new("RGB", (8, 8), colour), kind) for colour, kind in
                    (("red", "PNG"), ("blue", "JPEG"), ("green", "WEBP")))  # fmt: skip
APPEND = """
import sys
from pathlib import Path
from prefixvlm.serve.feedback import record

folder, name, image = sys.argv[1:]
for number in range(20):
    record(Path(folder), Path(image).read_bytes(), "a" * 500, f"{name} {number} " + "b" * 500)
"""


@pytest.fixture
def corrections(tmp_path):
    folder = tmp_path / "corrections"
    record(folder, RED, "blue", "red", "what colour?")
    record(folder, RED, "a blue square", "a red square")
    record(folder, BLUE, "blue", "blue", "what colour?")
    record(folder, RED, "blue", "crimson", " what colour? ")
    record(folder, GREEN, "blue", "crimson", "what colour?")
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / "corrections.jsonl").read_text().splitlines()]


def test_a_correction_is_a_line_and_an_image_is_kept_once(corrections):
    first, second, *_, last = lines(corrections)
    assert {path.name for path in (corrections / "images").iterdir()} == {
        f"{hashlib.sha256(image).hexdigest()}.{kind}" for image, kind in ((RED, "png"), (BLUE, "jpg"), (GREEN, "webp"))
    }
    assert (corrections / first["image"]).read_bytes() == RED
    assert first["image"] == second["image"] != last["image"]
    assert {name: first[name] for name in ("question", "prediction", "correction", "task")} == {
        "question": "what colour?", "prediction": "blue", "correction": "red", "task": "vqa"
    }  # fmt: skip
    assert (second["question"], second["task"]) == ("", "captioning")
    assert len({each["id"] for each in lines(corrections)}) == 5
    assert first["time"] <= last["time"]
    assert first["time"].endswith("+00:00")


def test_several_processes_append_whole_lines(tmp_path):
    (tmp_path / "a.png").write_bytes(RED)
    words = [sys.executable, "-c", APPEND, str(tmp_path / "collected")]
    running = [subprocess.Popen([*words, name, str(tmp_path / "a.png")]) for name in "xyz"]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    found, damaged = read_corrections(tmp_path / "collected")
    assert not damaged
    assert sorted(each.correction[:-501] for each in found) == sorted(f"{p} {n}" for p in "xyz" for n in range(20))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"image": b"no image"}, "the image does not decode"),
        ({"image": RED[:45]}, "the image does not decode"),
        ({"correction": " "}, "the correction has no words"),
        ({"correction": "x" * 2001}, "the correction has 2001 characters; at most 2000"),
        ({"question": "x" * 2001}, "the question has 2001 characters"),
        ({"prediction": "\ud800"}, "the prediction is not valid Unicode"),
        ({"max_folder": 300}, "the folder of corrections is full: it may have 300 bytes"),
    ],
)
def test_what_is_refused_leaves_nothing(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        record(tmp_path / "new", **{"image": RED, "prediction": "a", "correction": "b", **changes})
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file() and path.stat().st_size]


def test_a_full_disk_leaves_whole_lines(corrections, monkeypatch):
    before, write = (corrections / "corrections.jsonl").read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:30]))
    with pytest.raises(OSError, match="No space left"):
        record(corrections, RED, "a", "b")
    assert (corrections / "corrections.jsonl").read_bytes() == before


def test_a_line_that_a_power_cut_has_left_is_closed_and_counted(corrections, monkeypatch, capsys):
    with (corrections / "corrections.jsonl").open("a") as file:
        file.write('{"id": "cut')
    record(corrections, GREEN, "a", "b")
    assert len(read_corrections(corrections)[0]) == 6
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "feedback", str(corrections)])
    cli.main()
    assert "1 damaged lines do not count, as line 6 (" in capsys.readouterr().out


def test_the_summary(corrections, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "feedback", str(corrections), "--json"])
    cli.main()
    found = json.loads(capsys.readouterr().out)
    assert (found["images"], found["corrections"], found["changed"], found["replaced"]) == (3, 4, 3, 1)
    assert found["tasks"] == {
        "captioning": {"corrections": 1, "changed": 1}, "vqa": {"corrections": 3, "changed": 2}
    }  # fmt: skip
    assert found["commonest"][0] == {"task": "vqa", "prediction": "blue", "correction": "crimson", "count": 2}
    sys.argv.pop()
    cli.main()
    shown = capsys.readouterr().out
    assert "4 corrections of 3 images" in shown
    assert "vqa: 2 differ from the prediction, 1 confirm it" in shown
    assert "2 x blue -> crimson  (vqa)" in shown


def test_a_folder_without_corrections_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "feedback", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert f"there is no {tmp_path}/corrections.jsonl; it must be DIR" in capsys.readouterr().err


def test_the_last_correction_of_an_image_and_question_becomes_a_sample(corrections, tmp_path, command):  # noqa: F811
    command("feedback", "--source", corrections)
    samples = {sample.image.getpixel((4, 4)): sample for sample in read(tmp_path / "out", "train")}
    red = samples[(255, 0, 0)]
    assert len(samples) == 3
    assert red.captions == ("a red square",)
    assert [(each.question, each.answers) for each in red.questions] == [("what colour?", ("crimson",))]
    blue = next(sample for pixel, sample in samples.items() if pixel[2] > 200)
    assert not blue.captions
    assert [each.answers for each in blue.questions] == [("blue",)]
    assert "already; nothing to do" in command("feedback", "--source", corrections)
    record(corrections, BLUE, "a", "a blue square")
    assert "exists and does not hold these shards" in command("feedback", "--source", corrections, code=2)


def test_an_image_is_in_one_split_and_damaged_lines_are_named(tmp_path, command):  # noqa: F811
    for number in range(30):
        image = encoded(Image.new("RGB", (8, 8), (number, 0, 0)))
        for question in ("", "what?", "which?"):
            record(tmp_path / "c", image, "", str(number), question)
    with (tmp_path / "c" / "corrections.jsonl").open("a") as file:
        file.write('{"id": 7}\n')
    shown = command("feedback", "--source", tmp_path / "c", "--val-share", 0.2, "--test-share", 0.3)
    reds = {
        split: {sample.image.getpixel((4, 4))[0] for sample in read(tmp_path / "out", split)}
        for split in ("train", "val", "test")
    }
    assert all(reds.values())
    assert sorted(red for split in reds.values() for red in split) == list(range(30))
    assert all(len(each.questions) == 2 for split in reds for each in read(tmp_path / "out", split))
    assert list(read_manifest(tmp_path / "out").splits["train"].left_out) == ["line 91"]
    assert "1 train samples are left out" in shown


def test_an_image_outside_of_the_folder_ends_the_command(corrections, tmp_path, command):  # noqa: F811
    (tmp_path / "secret.png").write_bytes(RED)
    entry = {**asdict(read_corrections(corrections)[0][0]), "image": "../secret.png"}
    with (corrections / "corrections.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    assert "the image '../secret.png' is not in" in command("feedback", "--source", corrections, code=2)
