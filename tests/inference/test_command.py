"""`prefixvlm predict` on files, folders, patterns, standard input and JSONL, to lines, JSONL and CSV."""

import csv
import io
import json
import signal
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image, ImageColor

import prefixvlm
from prefixvlm import cli
from prefixvlm.command_line import subcommands
from prefixvlm.inference import draw
from prefixvlm.inference.results import Results
from prefixvlm.task.results.boxes import parse_boxes
from tests.forked import FORKED
from tests.inference.test_predictor import COLOURS, made, write_checkpoint  # noqa: F401  # made is a fixture

SEED_WITH_BOXES = 11  # of a random language model that predicts some


@pytest.fixture
def images(made, tmp_path):  # noqa: F811
    """Return a folder with images in folders, one of them hidden."""
    folder = tmp_path / "images"
    for place, path in zip(("a/red", "a/green", "b/blue", ".hidden/white"), made[2], strict=True):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(folder / f"{place}.png")
    return folder


@pytest.fixture
def predict(made, monkeypatch, capsys):  # noqa: F811
    """Return a function that runs the command and returns its standard output or, for another exit code, its errors."""

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", ["prefixvlm", "predict", "--ckpt", str(made[1]), *map(str, arguments)])
        if code == 0:
            subcommands._main()
            return capsys.readouterr().out
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
        return capsys.readouterr().err

    return run


@pytest.fixture(scope="module")
def captions(made):  # noqa: F811
    """Return the caption of each colour."""
    return dict(zip(COLOURS, prefixvlm.load(made[1]).caption(made[2]), strict=True))


def lines(images, captions, *places):
    return "".join(f"{images / place}.png\t{captions[place.split('/')[1]]}\n" for place in places)


def test_folders_and_patterns_are_read_in_order_without_hidden_files(predict, images, captions):
    assert predict(images) == lines(images, captions, "a/green", "a/red", "b/blue")
    assert predict(images / "b", images / "a" / "red.png") == lines(images, captions, "b/blue", "a/red")
    assert predict(images / "**" / "r*.png") == lines(images, captions, "a/red")


def test_paths_come_from_standard_input(predict, images, captions, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{images}/a/red.png\n\n{images}/b/blue.png\n"))
    assert predict("-") == lines(images, captions, "a/red", "b/blue")


@pytest.mark.parametrize("size", [1, 2, 64])
def test_jsonl_brings_questions_choices_and_ids(predict, images, made, tmp_path, size):  # noqa: F811
    asked = [
        {"image": "images/a/red.png", "question": "is it?", "id": 7},
        {"image": "images/a/green.png"},
        {"image": "images/b/blue.png", "question": "how many?", "choices": ["one", "two"], "id": "c"},
        {"image": "images/a/red.png", "question": "how many?"},
    ]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    predict(tmp_path / "asked.jsonl", "--results", tmp_path / "x.jsonl", "--batch-size", size)
    model = prefixvlm.load(made[1])
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert [each["id"] for each in found] == ["7", "images/a/green.png", "c", "images/a/red.png"]
    assert [each["asked"] for each in found] == ["is it?", "", "how many?", "how many?"]
    red = images / "a" / "red.png"
    assert found[0]["prediction"] == model.answer(red, "is it?")
    assert found[1]["prediction"] == model.caption(images / "a" / "green.png")
    assert found[2]["prediction"] == model.rank(images / "b" / "blue.png", ["one", "two"], "how many?")[0][0]
    assert found[3]["prediction"] == model.answer(red, "how many?")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_of_results_is_continued_where_it_was_cut(predict, images, tmp_path, suffix):
    whole, part = tmp_path / f"whole.{suffix}", tmp_path / f"part.{suffix}"
    predict(images, "--results", whole)
    content = whole.read_bytes()
    end = content.index(b"red.png")
    part.write_bytes(content[: end + 3])
    assert "part" in predict(images, "--results", part, code=2)  # it exists
    predict(images, "--results", part, "--resume")
    assert part.read_bytes() == content
    predict(images, "--results", part, "--resume")
    assert part.read_bytes() == content


def test_examples_that_choices_would_not_see_are_refused(predict, images):
    green = images / "a" / "green.png"
    green.with_suffix(".txt").write_text("green")
    (images / "a" / "red.png").unlink()
    asked = {"image": "b/blue.png", "question": "how?", "choices": ["a", "b"], "id": "q1"}
    (images / "asked.jsonl").write_text(json.dumps(asked))
    error = predict(images / "asked.jsonl", "--few-shot", images / "a", code=2)
    assert error.endswith("error: q1 is of a dialogue or has choices, which take no examples; leave out --few-shot\n")


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_results_with_any_line_separator_of_unicode_are_read_again(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    record = {"id": "a", "image": "a.png", "asked": "is\u2028it\x85?", "prediction": "one\u2029two\nthree"}
    with closing(Results(path)) as results:
        results.write("", record)
    assert Results(path, resume=True).done == {("a", record["asked"])}


def test_csv_is_what_csv_reads(predict, images, captions, tmp_path):
    predict(images / "a", "--question", "is, it?", "--question", "no?", "--results", tmp_path / "x.csv")
    rows = list(csv.DictReader((tmp_path / "x.csv").read_text().splitlines()))
    assert [row["asked"] for row in rows] == ["is, it?", "no?"] * 2
    assert rows[0].keys() == {"id", "image", "asked", "prediction"}


def test_bad_images_are_counted_and_named_and_the_rest_goes_on(predict, images, captions, capsys):
    (images / "a" / "bad.png").write_text("no image")
    (images / "b" / "cut.png").write_bytes((images / "b" / "blue.png").read_bytes()[:60])
    error = predict(images, code=1)
    assert "error: 2 images could not be read:\n" in error
    assert f"  {images}/a/bad.png: the image does not decode" in error
    assert f"  {images}/b/cut.png: " in error


def test_decoding_and_demonstrations(predict, images, made):  # noqa: F811
    model, red, green = prefixvlm.load(made[1]), images / "a" / "red.png", images / "a" / "green.png"
    said = predict(red, "--decoding", "max_new_tokens=9", "method=beam", "num_beams=2").rstrip("\n").split("\t")[1]
    assert said == model.caption(red, max_new_tokens=9, method="beam", num_beams=2)
    green.with_suffix(".txt").write_text("green\n")
    red.with_suffix(".txt").write_text("red")
    shown = [(green, "green"), (red, "red")]
    blue = images / "b" / "blue.png"
    assert predict(blue, "--few-shot", images / "a") == f"{blue}\t{model.caption(blue, shown)}\n"
    questions = [(image, "how?", text) for image, text in shown]
    found = predict(blue, "--few-shot", images / "a", "--question", "how?")
    assert found == f"{blue}\t{model.answer(blue, 'how?', questions)}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere.png"], "there is no image nowhere.png"),
        (["nowhere/*.png"], "no file fits the pattern nowhere/*.png"),
        (["{}/empty"], "has no image; accepted are .png"),
        (["{}/bad.jsonl"], "line 2 of {}/bad.jsonl is not valid (Object missing required field `image`)"),
        (["{}/a.png", "--results", "x.txt"], "--results is x.txt; it must end in .jsonl or .csv"),
        (["{}/a.png", "--resume"], "--resume goes on with a file; give it as --results"),
        (["{}/a.png", "--batch-size", "0"], "--batch-size is 0 and --workers 2; set 1 or more"),
        (["{}/a.png", "--decoding", "beam"], "--decoding has 'beam'; write KEY=VALUE"),
        (["{}/a.png", "--decoding", "num_beams=2"], "decoding.num_beams is not an option of greedy decoding"),
        (["{}/a.png", "--decoding", "max_new_tokens=ten"], "decoding.max_new_tokens is 'ten'; it must be an int"),
        (["{}/a.png", "--device", "gpu"], "device is 'gpu'; give auto, cpu"),
        (["{}/a.png", "--few-shot", "{}"], "but no a.txt with its text"),
        (["{}/a.png", "{}/a.png", "--out", "x.png"], "--out is x.png, of one image, and there are 2; give a folder"),
        (["{}/a.png", "--out", "x.txt"], "--out is x.txt; it must be a folder or end in .png"),
        (["{}/a.png", "--out", "{}/no/drawn"], "--out is {}/no/drawn; it must be a folder or end in .png"),
        (["-", "--out", "drawn"], "--out takes images that are named on the command line"),
        (["{}/a.png", "--out", "x.png"], "--out draws boxes, and task captioning predicts none; leave it out"),
    ],
)
def test_wrong_arguments_are_one_sentence(predict, tmp_path, words, sentence):
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "bad.jsonl").write_text('{"image": "a.png"}\n{"picture": "a.png"}\n')
    error = predict(*(word.format(tmp_path) for word in words), code=2)
    assert sentence.format(tmp_path) in error
    assert error.count("error:") == 1


def test_boxes_are_drawn_on_one_image_or_on_those_of_a_folder(predict, images, tmp_path):
    write_checkpoint(tmp_path, ["detection"], gpt2={"seed": SEED_WITH_BOXES})
    known = ["--ckpt", tmp_path / "x.ckpt", "--results", tmp_path / "x.jsonl"]
    predict(images, *known, "--out", tmp_path / "drawn")
    found = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    colours = {ImageColor.getrgb(colour) for colour in draw.COLOURS}
    boxes = 0
    for record in found:
        place = Path(record["image"]).relative_to(images)
        picture, before = (Image.open(path).convert("RGB") for path in (tmp_path / "drawn" / place, record["image"]))
        assert picture.size == before.size
        for box, _ in parse_boxes(record["prediction"], confidences=True):
            left, top = (round(edge * size) for edge, size in zip(box.edges[:2], picture.size, strict=True))
            assert picture.getpixel((min(left, picture.width - 1), min(top, picture.height - 1))) in colours
            boxes += 1
    assert boxes > 0
    one = images / "a" / "red.png"
    predict(one, "--ckpt", tmp_path / "x.ckpt", "--out", tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "drawn" / "a" / "red.png").read_bytes()
    assert sorted(path.name for path in (tmp_path / "drawn").rglob("*.png")) == ["blue.png", "green.png", "red.png"]


def test_a_command_that_is_killed_or_interrupted_goes_on_where_it_stopped(predict, images, made, tmp_path):  # noqa: F811
    for number in range(60):
        Image.new("RGB", (20, 20), (4 * number, 0, 0)).save(images / f"{number:02d}.png")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    predict(images, "--results", whole)
    command = ["-m", "prefixvlm.cli", "predict", images, "--ckpt", made[1], "--results", part, "--batch-size", 1]
    for number, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        start = part.stat().st_size if part.exists() else 0
        child = FORKED.start([*command, *(["--resume"] if start else [])])
        while child.poll() is None and not (part.exists() and part.stat().st_size > start):
            time.sleep(0.001)
        child.send_signal(number)
        _, error = child.communicate()
        assert child.returncode == code
        assert "Traceback" not in error
        assert start < part.stat().st_size < whole.stat().st_size
    predict(images, "--results", part, "--resume")
    assert part.read_text() == whole.read_text()
