"""`prefixvlm shards` of the benchmarks, from small files in the published layouts."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prefixvlm import cli
from prefixvlm.data import sources
from prefixvlm.data.sample import Question, Sample, decode
from prefixvlm.data.shards.manifest import read_manifest
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.sources.fast_binding import names_in
from tests.data.conftest import Command, encoded

COLOURS = ("red", "lime", "blue", "black", "white", "yellow")


def jpg(colour: str) -> bytes:
    return encoded(Image.new("RGB", (8, 8), colour), "JPEG", quality=100)


def write_images(folder: Path, names: Iterable[str]) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpg(COLOURS[number % len(COLOURS)]))


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def read(out: Path, split: str) -> list[Sample]:
    return [decode(*sample, where=split) for path in sorted(out.glob(f"{split}-*.tar")) for sample in read_shard(path)]


def colour(image: Image.Image) -> str:
    def distance(name: str) -> int:
        wanted = Image.new("RGB", (1, 1), name).getpixel((0, 0))
        return sum(abs(a - b) for a, b in zip(image.getpixel((4, 4)), wanted, strict=True))

    return min(COLOURS, key=distance)


def karpathy(number: int, split: str, place: str = "val2014", **more: object) -> dict[str, Any]:
    sentences = [
        {"tokens": ["a"], "raw": f"Caption {number} {letter}. ", "imgid": number, "sentid": 9} for letter in "ba"
    ]
    name = f"COCO_{place}_{number:012d}.jpg"
    image = {"filepath": place, "filename": name, "imgid": 0, "split": split, "cocoid": number}
    return {**image, "sentences": sentences, "sentids": [1, 2], **more}


COCO = [karpathy(9, "train", "train2014"), karpathy(8, "restval"), karpathy(42, "test"), karpathy(7, "val")]


def coco(tmp_path: Path, images: list[dict[str, Any]] = COCO) -> list[object]:
    write_images(tmp_path / "coco", [f"{image['filepath']}/{image['filename']}" for image in images])
    path = write(tmp_path / "dataset_coco.json", {"dataset": "coco", "images": images})
    return ["coco", "--annotations", path, "--images", tmp_path / "coco"]


def test_coco(tmp_path: Path, command: Command) -> None:
    assert "2 train samples" in command(*coco(tmp_path))
    assert "holds these shards already" in command(*coco(tmp_path))
    assert "is whole" in command("verify")
    found = {split: read(tmp_path / "out", split) for split in ("train", "val", "test")}
    assert {split: [sample.key for sample in samples] for split, samples in found.items()} == {
        "train": ["9", "8"],
        "val": ["7"],
        "test": ["42"],
    }
    (sample,) = found["test"]
    assert sample.captions == ("Caption 42 b. ", "Caption 42 a. ")
    assert colour(sample.image) == "blue"
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert "dataset_coco.json (sha256 " in manifest.source


def test_only_some_splits(tmp_path: Path, command: Command) -> None:
    arguments = coco(tmp_path)
    (tmp_path / "coco/train2014/COCO_train2014_000000000009.jpg").unlink()
    command(*arguments, "--splits", "test", "val")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == ["test-000000.tar", "val-000000.tar"]


@pytest.mark.parametrize("name", ["flickr30k", "flickr8k"])
def test_flickr(tmp_path: Path, command: Command, name: str) -> None:
    images = [
        {"filename": f"10{n}_ab.jpg", "imgid": n, "split": split, "sentences": [{"raw": "Two men."}], "sentids": [0]}
        for n, split in enumerate(["train", "val", "test"])
    ]
    write_images(tmp_path / "images", [str(image["filename"]) for image in images])
    path = write(tmp_path / f"dataset_{name}.json", {"dataset": name, "images": images})
    command(name, "--annotations", path, "--images", tmp_path / "images", "--accept-terms")
    (sample,) = read(tmp_path / "out", "test")
    assert (sample.key, sample.captions, colour(sample.image)) == ("102_ab", ("Two men.",), "blue")


def nocaps(tmp_path: Path, **more: object) -> list[object]:
    images = [
        {"id": n, "file_name": f"00{n}.jpg", "open_images_id": f"00{n}", "domain": domain, "coco_url": "http://x"}
        for n, domain in enumerate(["in-domain", "near-domain", "out-domain"])
    ]
    write_images(tmp_path / "images", [str(image["file_name"]) for image in images])
    path = write(tmp_path / "nocaps.json", {"licenses": [], "info": {}, "images": images, **more})
    return ["nocaps", "--annotations", path, "--images", tmp_path / "images"]


def test_nocaps(tmp_path: Path, command: Command) -> None:
    captions = [{"id": 10 * n + k, "image_id": n, "caption": f"{n} {k}"} for k in range(10) for n in range(3)]
    command(*nocaps(tmp_path, annotations=captions))
    found = read(tmp_path / "out", "test")
    assert [(sample.key, sample.groups["domain"]) for sample in found] == [
        ("0", "in-domain"),
        ("1", "near-domain"),
        ("2", "out-domain"),
    ]
    assert found[2].captions == tuple(f"2 {k}" for k in range(10))


def test_nocaps_without_captions(tmp_path: Path, command: Command) -> None:
    command(*nocaps(tmp_path))
    assert [(sample.key, sample.captions) for sample in read(tmp_path / "out", "test")] == [
        ("0", ()),
        ("1", ()),
        ("2", ()),
    ]


def ten(*answers: str) -> list[dict[str, Any]]:
    """Ten answers, which are not in the order of their ids."""
    given = [answers[n % len(answers)] for n in range(10)]
    numbered = [{"answer": text, "answer_confidence": "yes", "answer_id": n + 1} for n, text in enumerate(given)]
    return numbered[5:] + numbered[:5]


def vqa(tmp_path: Path, split: str, part: str, name: str = "", flat: bool = False) -> list[object]:
    asked = [(262148000, 262148, "Where is he?"), (393225001, 393225, "A bear?"), (262148001, 262148, "How many?")]
    questions = [{"image_id": image, "question": text, "question_id": id_} for id_, image, text in asked]
    answered = zip(asked, (ten("down", "at table"), ten("yes"), ten("2", " ", "3")), strict=True)
    annotations = [
        {
            "question_type": text.split()[0].lower(),
            "multiple_choice_answer": "x",
            "answers": answers,
            "image_id": image,
            "answer_type": "other",
            "question_id": id_,
        }
        for (id_, image, text), answers in answered
    ]
    folder = "" if flat else f"{part}/"
    write_images(tmp_path / "coco", [f"{folder}COCO_{part}_{image:012d}.jpg" for image in (262148, 393225)])
    files = [
        f"--{split}-questions",
        write(tmp_path / f"{name}OpenEnded_{part}_questions.json", {"info": {}, "questions": questions}),
    ]
    if part != "test2015":
        path = write(tmp_path / f"{name}{part}_annotations.json", {"info": {}, "annotations": annotations})
        files += [f"--{split}-annotations", path]
    return files


@pytest.mark.parametrize("flat", [False, True])
def test_vqav2(tmp_path: Path, command: Command, flat: bool) -> None:
    train, val = vqa(tmp_path, "train", "train2014", flat=flat), vqa(tmp_path, "val", "val2014", flat=flat)
    command("vqav2", "--images", tmp_path / "coco", *train, *val)
    assert [sample.key for sample in read(tmp_path / "out", "train")] == ["262148", "393225"]
    two, one = read(tmp_path / "out", "val")
    groups = {"answer_type": "other", "question_type": "a"}
    assert one.questions == (Question("393225001", "A bear?", ("yes",) * 10, (), groups),)
    assert [question.id for question in two.questions] == ["262148000", "262148001"]
    assert two.questions[0].answers == ("down", "at table") * 5
    assert two.questions[1].answers == ("2", ".", "3") * 3 + ("2",), "a blank answer still counts as one of the ten"
    assert colour(two.image) == "red"
    assert not (tmp_path / "out/test-000000.tar").exists()


def test_vqav2_test_has_no_answers(tmp_path: Path, command: Command) -> None:
    command("vqav2", "--images", tmp_path / "coco", *vqa(tmp_path, "test", "test2015"))
    questions = [question for sample in read(tmp_path / "out", "test") for question in sample.questions]
    assert {question.answers for question in questions} == {()}


def test_okvqa(tmp_path: Path, command: Command) -> None:
    command("okvqa", "--images", tmp_path / "coco", *vqa(tmp_path, "test", "val2014"))
    assert [sample.key for sample in read(tmp_path / "out", "test")] == ["262148", "393225"]


GQA = {
    "201307251": {
        "imageId": "n161313",
        "question": "Is it overcast?",
        "answer": "no",
        "fullAnswer": "No, it is clear.",
        "isBalanced": True,
        "types": {"semantic": "global", "structural": "verify", "detailed": "weatherVerify"},
    },
    "201640614": {
        "imageId": "n235859",
        "question": "Who is wearing the dress?",
        "answer": "woman",
        "types": {"semantic": "rel", "structural": "query", "detailed": "relS"},
    },
    "202225914": {"imageId": "n161313", "question": "What color is the sky?"},
}


def gqa(tmp_path: Path, content: object = GQA) -> list[object]:
    write_images(tmp_path / "images", ["n161313.jpg", "n235859.jpg"])
    return ["gqa", "--images", tmp_path / "images", "--test-questions", write(tmp_path / "testdev.json", content)]


def test_gqa(tmp_path: Path, command: Command) -> None:
    command(*gqa(tmp_path))
    two, one = read(tmp_path / "out", "test")
    assert (two.key, one.key) == ("n161313", "n235859")
    assert two.questions == (
        Question("201307251", "Is it overcast?", ("no",), (), {"type": "binary"}),
        Question("202225914", "What color is the sky?"),
    )
    assert one.questions[0].groups == {"type": "open"}


def vizwiz(tmp_path: Path, split: str, *content: object) -> list[object]:
    write_images(tmp_path / "images", [f"{split}/VizWiz_{split}_0000000{n}.jpg" for n in range(2)])
    return ["vizwiz", "--images", tmp_path / "images", f"--{split}-annotations", write(tmp_path / "v.json", content)]


def test_vizwiz(tmp_path: Path, command: Command) -> None:
    answers = [{"answer": text, "answer_confidence": "yes"} for text in ["unanswerable", "soda", "", *["can"] * 7]]
    annotation = {"answers": answers, "answer_type": "other", "answerable": 1}
    asked = [{"image": f"VizWiz_val_0000000{n}.jpg", "question": "What is it?"} for n in range(2)]
    command(*vizwiz(tmp_path, "val", asked[0] | annotation, asked[1] | annotation | {"answerable": 0}))
    first, second = read(tmp_path / "out", "val")
    expected = ("unanswerable", "soda", ".", *["can"] * 7)
    assert first.questions == (Question("VizWiz_val_00000000", "What is it?", expected, (), {"answer_type": "other"}),)
    assert (first.key, first.labels, second.labels) == (
        "VizWiz_val_00000000",
        {"answerable": "yes"},
        {"answerable": "no"},
    )


def test_vizwiz_test_has_no_answers(tmp_path: Path, command: Command) -> None:
    command(*vizwiz(tmp_path, "test", {"image": "VizWiz_test_00000000.jpg", "question": "What is it?"}))
    (sample,) = read(tmp_path / "out", "test")
    assert (sample.questions, sample.labels) == ((Question("VizWiz_test_00000000", "What is it?"),), {})


def test_textcaps(tmp_path: Path, command: Command) -> None:
    write_images(tmp_path / "images", ["train_images/ab12.jpg", "test_images/cd34.jpg"])
    captions = [
        {"image_id": "ab12", "image_name": "ab12", "caption_str": text} for text in ("A sign.", "It says STOP.")
    ]
    val = write(tmp_path / "val.json", {"data": captions})
    test = write(tmp_path / "test.json", {"data": [{"image_id": "cd34", "image_name": "cd34"}]})
    command("textcaps", "--images", tmp_path / "images", "--val-annotations", val, "--test-annotations", test)
    assert [(s.key, s.captions) for s in read(tmp_path / "out", "val")] == [("ab12", ("A sign.", "It says STOP."))]
    assert [(s.key, s.captions) for s in read(tmp_path / "out", "test")] == [("cd34", ())]


def episode(shots: int, number: object, answer: str, names: tuple[str, ...]) -> dict[str, Any]:
    task = f"open_ended_mi_shots_{shots}_ways_2_id_{number}"
    found: dict[str, Any] = {"question_id": number, "question": "What is this?", "answer": answer}
    for place, name in enumerate(names * shots, 1):
        found |= {f"image_{place}": f"{task}_image_{place}.jpg", f"caption_{place}": f"This is a {name}."}
    return found | {"question_image": f"{task}_question.jpg"}


def episodes(tmp_path: Path, files: dict[int, list[dict[str, Any]]]) -> list[object]:
    folder = tmp_path / "open_ended_mi"
    for shots, contents in files.items():
        write(folder / f"open_ended_mi_shots_{shots}_ways_2_all_questions.json", contents)
        for each in contents:
            write_images(folder, [value for name, value in each.items() if "image" in name])
    return ["fast-binding", "--episodes", folder, "--accept-terms"]


def test_fast_binding(tmp_path: Path, command: Command) -> None:
    files = {1: [episode(1, 0, "blicket", ("dax", "blicket"))], 3: [episode(3, 0, "dax", ("dax", "blicket"))]}
    command(*episodes(tmp_path, files))
    one, three = read(tmp_path / "out", "test")
    key = "open_ended_mi_shots_1_ways_2_id_0"
    groups = {"ways": "2", "shots": "1"}
    assert one.key == key
    assert one.questions == (Question(key, "What is this?", ("blicket",), ("blicket", "dax"), groups),)
    assert [(colour(image), text) for image, text in one.support] == [
        ("red", "This is a dax."),
        ("lime", "This is a blicket."),
    ]
    assert colour(one.image) == "blue"
    assert (len(three.support), three.questions[0].answers, three.labels) == (6, ("dax",), {})


def test_fast_binding_of_some_shots(tmp_path: Path, command: Command) -> None:
    names = ("dax", "blicket")
    wrong = [episode(1, 1, "wug", names), episode(1, 2, "dax", ("dax", "dax"))]
    files = {1: [episode(1, 0, "dax", names), *wrong], 3: [episode(3, 0, "dax", names)]}
    arguments = episodes(tmp_path, files)
    assert "2 test samples are left out" in command(*arguments, "--shots", 1, "--ways", 2)
    assert [sample.key for sample in read(tmp_path / "out", "test")] == ["open_ended_mi_shots_1_ways_2_id_0"]
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert list(manifest.splits["test"].left_out.values()) == [
        "the answer 'wug' names none of ['This is a dax.', 'This is a blicket.']",
        "its captions hold 1 names, but open_ended_mi_shots_1_ways_2_all_questions.json says 2 ways",
    ]


@pytest.mark.parametrize(
    ("captions", "answer", "expected"),
    [
        (["This is a dax.", "This is a blicket."], "dax", ["dax", "dax", "blicket"]),
        (["This is a dax.", "This is a blicket."], "Blicket.", ["blicket", "dax", "blicket"]),
        (["This is a dax.", "This is a blicket."], "This is a dax.", ["dax", "dax", "blicket"]),
        (["this is an eagle", "this is a dog"], "dog", ["dog", "eagle", "dog"]),
        (["a golden retriever.", "a labrador retriever."], "golden retriever", None),
        (["This is a polar bear", "This is a bear"], "bear", ["bear", "polar bear", "bear"]),
        (["dax", "blicket", "Dax"], "dax", ["dax", "dax", "blicket", "dax"]),
        (["see the dax here", "see the wug here"], "wug", ["wug", "dax", "wug"]),
        (["This is a dax.", "Here a blicket."], "dax", []),
        (["This is a dax.", "This is a blicket."], "a wug", []),
        (["This is a dax.", "This is a blicket."], "", []),
    ],
)
def test_names_are_the_words_that_the_captions_do_not_share(
    captions: list[str], answer: str, expected: list[str]
) -> None:
    whole = ["golden retriever", "golden retriever", "labrador retriever"]
    assert names_in(captions, answer) == (whole if expected is None else expected)


@pytest.mark.parametrize("name", sources.names())
def test_every_source_has_instructions_and_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sources.load(name)
    text = sources.how_to_make(name)
    assert f"prefixvlm shards {name} " in text
    assert text.endswith(f"--out data/{name}")
    assert all(sources.option(argument) in text for argument in source.ARGUMENTS)
    monkeypatch.setattr(sys, "argv", ["prefixvlm", "shards", name, "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert all(sources.option(argument) in shown for argument in source.ARGUMENTS)


def test_instructions_for_one_split() -> None:
    text = sources.how_to_make("vqav2", "val")
    assert "--val-annotations v2_mscoco_val2014_annotations.json --out data/vqav2" in text
    assert "--train" not in text
    assert "_karpathy" not in sources.names()
