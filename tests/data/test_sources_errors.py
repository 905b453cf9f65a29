"""Malformed published files: one sentence, or one reason in the manifest."""

from pathlib import Path

import pytest

from prefixvlm.data import sources
from prefixvlm.data.shards.manifest import read_manifest
from tests.data.conftest import Command
from tests.data.test_sources import COCO, coco, episode, episodes, karpathy, write


def test_shards_of_other_files_are_not_taken_for_these(tmp_path: Path, command: Command) -> None:
    command(*coco(tmp_path))
    arguments = coco(tmp_path, [*COCO, karpathy(5, "test")])
    assert "does not hold these shards" in command(*arguments, code=2)


def test_episodes_of_other_shots_are_not_taken_for_these(tmp_path: Path, command: Command) -> None:
    names = ("dax", "blicket")
    arguments = episodes(tmp_path, {shots: [episode(shots, 0, "dax", names)] for shots in (1, 3)})
    command(*arguments)
    assert "does not hold these shards" in command(*arguments, "--shots", 3, code=2)


def test_missing_images_are_left_out_and_too_many_stop(tmp_path: Path, command: Command) -> None:
    images = [karpathy(number, "test") for number in range(4)]
    arguments = [*coco(tmp_path, images), "--splits", "test"]
    for number in range(2):
        (tmp_path / f"coco/val2014/COCO_val2014_{number:012d}.jpg").unlink()
    assert "2 test samples are left out" in command(*arguments)
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    assert set(manifest.splits["test"].left_out) == {"0", "1"}
    assert "COCO_val2014_000000000001.jpg cannot be read (No such file" in manifest.splits["test"].left_out["1"]
    (tmp_path / "coco/val2014/COCO_val2014_000000000002.jpg").unlink()
    expected = "3 of 4 images are missing, as .*; the folder must be DIR: the folder that holds train2014/ and val2014/"
    with pytest.raises(ValueError, match=expected):
        sources.load("coco").samples("test", arguments[2], arguments[4])


QUESTION = {"image_id": 1, "question": "what?", "question_id": 2}
MALFORMED = [
    ("coco", {"annotations": "{"}, "is not JSON (Expecting"),
    ("coco", {"annotations": []}, "holds a list and not a dict; it must be dataset_coco.json: Karpathy's splits"),
    ("coco", {"annotations": {"images": {}}}, "'images' is {}, which is no list"),
    ("coco", {"annotations": {"images": [{}]}}, "'split' is missing in {}"),
    ("coco", {"annotations": {"images": [karpathy(1, "train", cocoid=None)]}}, "'cocoid' is None, which is no str"),
    ("coco", {"annotations": {"images": [karpathy(1, "train", sentences=[{}])]}}, "'raw' is missing"),
    ("flickr30k", {"annotations": {"images": [{"split": "train"}]}}, "'filename' is missing"),
    ("flickr8k", {"annotations": {}}, "'images' is missing"),
    ("nocaps", {"annotations": {"images": [{"id": 1}]}}, "'file_name' is missing"),
    ("nocaps", {"annotations": {"images": [], "annotations": [{"image_id": 1}]}}, "'caption' is missing"),
    ("vqav2", {}, "nothing to write; give one of --train-questions, --val-questions, --test-questions"),
    ("vqav2", {"val_questions": {"questions": []}}, "--val-annotations is not given; it must be v2_mscoco_val2014"),
    ("vqav2", {"val_annotations": {"annotations": []}}, "--val-questions is not given; it must be v2_OpenEnded_mscoco"),
    ("vqav2", {"test_questions": {"questions": [{"question_id": 1}]}}, "'question' is missing"),
    (
        "vqav2",
        {"train_questions": {"data_subtype": "val2014", "questions": []}, "train_annotations": {"annotations": []}},
        "is a file of 'val2014'; --train-questions must be one of train2014",
    ),
    (
        "okvqa",
        {"train_questions": {"questions": []}, "train_annotations": {"data_subtype": "val2014", "annotations": []}},
        "is a file of 'val2014'; --train-annotations must be one of train2014",
    ),
    (
        "vqav2",
        {"val_questions": {"questions": [QUESTION]}, "val_annotations": {"annotations": []}},
        "has no answers to question '2' of",
    ),
    (
        "okvqa",
        {"test_questions": {"questions": []}, "test_annotations": {"annotations": [{"question_id": 2}]}},
        "'answers' is missing",
    ),
    (
        "okvqa",
        {
            "test_questions": {"questions": []},
            "test_annotations": {"annotations": [{"question_id": 2, "answers": ["yes"]}]},
        },
        "'answer' is missing in 'yes'",
    ),
    ("okvqa", {"test_questions": {"questions": []}}, "--test-annotations is not given; it must be mscoco_val2014"),
    ("gqa", {"test_questions": {"1": {"question": "what?"}}}, "'imageId' is missing"),
    (
        "gqa",
        {"test_questions": {"1": {"question": "?", "imageId": "n1", "types": []}}},
        "'types' is [], which is no dict",
    ),
    ("vizwiz", {"val_annotations": {}}, "holds a dict and not a list; it must be val.json"),
    ("vizwiz", {"val_annotations": ["x"]}, "'image' is missing in 'x'"),
    (
        "vizwiz",
        {"val_annotations": [{"image": "a.jpg", "question": "what?", "answers": [], "answerable": "yes"}]},
        "'answerable' is 'yes', which is no int",
    ),
    ("textcaps", {"val_annotations": {"data": [{}]}}, "'image_id' is missing"),
]


@pytest.mark.parametrize(("name", "files", "expected"), MALFORMED)
def test_malformed_files_are_one_sentence(
    tmp_path: Path, command: Command, name: str, files: dict[str, object], expected: str
) -> None:
    (tmp_path / "images").mkdir()
    given = [(sources.option(key), write(tmp_path / f"{key}.json", content)) for key, content in files.items()]
    terms = ["--accept-terms"] if sources.load(name).TERMS else []
    words = [word for pair in given for word in pair]
    sentence = command(name, "--images", tmp_path / "images", *words, *terms, code=2).splitlines()[-1]
    assert sentence.startswith("error: ")
    assert expected in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "has no N shots and M ways; it must be open_ended_mi: the folder in https://"),
        ([{"question": "what?"}], "'question_id' is missing"),
        ([{"question_id": 1}], "'image_1' is missing"),
        ([episode(1, 1, "dax", ("dax", "blicket")) | {"caption_2": 3}], "'caption_2' is 3, which is no str"),
        ([episode(1, 1, "dax", ("dax", "blicket"))], "3 of 3 images are missing"),
    ],
)
def test_malformed_episodes_are_one_sentence(
    tmp_path: Path, command: Command, content: list[object] | None, expected: str
) -> None:
    folder = tmp_path / "episodes"
    write(folder / "readme.txt", "")
    if content is not None:
        write(folder / "open_ended_mi_shots_1_ways_2_all_questions.json", content)
    assert expected in command("fast-binding", "--episodes", folder, "--accept-terms", code=2)


def test_a_missing_file(tmp_path: Path, command: Command) -> None:
    sentence = command("coco", "--annotations", tmp_path / "no.json", "--images", tmp_path, code=2).splitlines()[-1]
    assert sentence.endswith("caption_datasets.zip")
    assert f"there is no {tmp_path / 'no.json'}; --annotations must be dataset_coco.json" in sentence
    assert "the following arguments are required: --images" in command("coco", "--annotations", "x", code=2)
