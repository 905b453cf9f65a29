"""easy-VQA: captions and annotations follow from the answers, and no published data is lost."""

import json
import math
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import pytest

from prefixvlm.data.sample import Sample, decode
from prefixvlm.data.shards.tar_writer import Members
from prefixvlm.data.sources import easy_vqa
from prefixvlm.data.sources.easy_vqa import caption, facts_of, samples


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("what is the blue shape?", "rectangle", {"color": "blue", "shape": "rectangle"}),
        ("what color is the circle?", "red", {"color": "red", "shape": "circle"}),
        ("what is the color of the triangle?", "teal", {"color": "teal", "shape": "triangle"}),
        ("what color is the shape?", "gray", {"color": "gray"}),
        ("what is the color of the shape?", "gray", {"color": "gray"}),
        ("what shape is present?", "circle", {"shape": "circle"}),
        ("what shape is in the image?", "circle", {"shape": "circle"}),
        ("what shape does the image contain?", "circle", {"shape": "circle"}),
        ("is there a red shape?", "yes", {"color": "red"}),
        ("is there a red shape?", "no", {}),
        ("is there a circle in the image?", "yes", {"shape": "circle"}),
        ("is there a circle in the image?", "no", {}),
        ("is there not a red shape?", "no", {"color": "red"}),
        ("is there not a red shape?", "yes", {}),
        ("is there not a triangle in the image?", "no", {"shape": "triangle"}),
        ("does the image contain a brown shape?", "yes", {"color": "brown"}),
        ("does the image contain a rectangle?", "no", {}),
        ("does the image not contain a rectangle?", "no", {"shape": "rectangle"}),
        ("does the image not contain a rectangle?", "yes", {}),
        ("is a black shape present?", "yes", {"color": "black"}),
        ("is a black shape present?", "no", {}),
        ("is no black shape present?", "no", {"color": "black"}),
        ("is no circle present?", "yes", {}),
        ("is the circle red?", "yes", {}),
        ("how many circles are there?", "1", {}),
    ],
)
def test_facts_of_an_answer(question: str, answer: str, expected: dict[str, str]) -> None:
    assert facts_of(question, answer) == expected


def test_captions_contain_no_more_than_the_answers() -> None:
    shape, colour = ("what shape is present?", "circle"), ("is there a red shape?", "yes")
    assert caption([shape, colour]) == "a red circle"
    assert caption([shape, ("is there a red shape?", "no")]) == "a circle"
    assert caption([colour]) == "a red shape"
    assert caption([]) == "a shape"
    with pytest.raises(ValueError, match="contradict each other: the shape is both circle and triangle"):
        caption([shape, ("is a triangle present?", "yes")])


@pytest.fixture(scope="module")
def decoded() -> dict[str, list[Sample]]:
    return {split: [decode(key, read(members), split) for key, members in samples(split)] for split in easy_vqa.SPLITS}


def read(members: Members) -> dict[str, bytes]:
    return {name: each.read_bytes() if isinstance(each, Path) else each for name, each in members.items()}


def test_all_published_data_is_used_once(decoded: dict[str, list[Sample]]) -> None:
    assert {split: len(found) for split, found in decoded.items()} == {"train": 3600, "val": 400, "test": 1000}
    keys = [sample.key for found in decoded.values() for sample in found]
    assert len(set(keys)) == 5000
    questions = {split: [q for sample in found for q in sample.questions] for split, found in decoded.items()}
    assert len(questions["train"]) + len(questions["val"]) == 38_575
    assert len(questions["test"]) == 9_673
    every = [question for found in questions.values() for question in found]
    assert len({question.id for question in every}) == len(every)
    assert len({answer for question in every for answer in question.answers}) == 13
    assert all(
        sample.key.startswith("test" if split == "test" else "train") for split in decoded for sample in decoded[split]
    )


def test_every_real_phrasing_is_understood(decoded: dict[str, list[Sample]]) -> None:
    questions = {q.question for found in decoded.values() for sample in found for q in sample.questions}
    assert len(questions) == 107
    for question in questions:
        facts = [facts_of(question, answer) for answer in ("yes", "no")]
        assert all(facts) if question.startswith("what") else sorted(map(len, facts)) == [0, 1]


def test_real_captions(decoded: dict[str, list[Sample]]) -> None:
    captions = Counter(sample.captions for found in decoded.values() for sample in found)
    colours = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
    shapes = ("circle", "rectangle", "triangle")
    full = {(f"a {colour} {shape}",) for colour in colours for shape in shapes}
    less = {(f"a {colour} shape",) for colour in colours} | {(f"a {shape}",) for shape in shapes} | {("a shape",)}
    assert full <= set(captions) <= full | less
    first = next(sample for sample in decoded["train"] if sample.key == "train-0000")
    assert first.captions == ("a blue rectangle",)
    assert first.labels == {"shape": "rectangle", "color": "blue"}
    assert (0, 0, 255) in [colour for _, colour in first.image.getcolors()]


def test_labels_agree_with_the_captions(decoded: dict[str, list[Sample]]) -> None:
    for sample in (sample for found in decoded.values() for sample in found):
        labels = sample.labels
        assert sample.captions == (" ".join(filter(None, ["a", labels.get("color"), labels.get("shape", "shape")])),)


def test_the_validation_images_are_fixed(decoded: dict[str, list[Sample]]) -> None:
    assert [sample.key for sample in decoded["val"]][:3] == ["train-0039", "train-0049", "train-0051"]
    assert [key for key, _ in samples("val")] == [sample.key for sample in decoded["val"]]
    _, members = next(samples("val"))
    fields = {"captions", "questions", "labels", "label_sets", "values", "boxes", "tagged"}
    assert set(json.loads(read(members)["json"])) <= fields


def test_boxes_and_areas_are_those_of_the_shapes(decoded: dict[str, list[Sample]]) -> None:
    """A rectangle fills its box, a circle pi / 4 of it and a little more, because edges are drawn."""
    filled = defaultdict(list)
    for sample in decoded["test"]:
        for box in sample.boxes or ():
            filled[box.label].append(sample.values["area"] / ((box.x1 - box.x0) * (box.y1 - box.y0)))
    assert min(filled["rectangle"]) > 0.999
    assert mean(filled["circle"]) == pytest.approx(math.pi / 4, abs=0.06)
    assert max(filled["triangle"]) < 0.75


def test_the_shape_in_the_image_is_tagged_in_both_positions(decoded: dict[str, list[Sample]]) -> None:
    places = Counter()
    for sample in decoded["test"]:
        for text in sample.tagged:
            seen = [word for word, tag in zip(text.words, text.tags, strict=True) if tag != "O"]
            assert seen == [sample.labels["color"], sample.labels["shape"]]
            assert len(set(text.words)) == 6  # only the article is said twice
            places[text.tags.index("B-SEEN")] += 1
    assert set(places) == {1, 5}
    assert 0.4 < places[1] / places.total() < 0.6


def test_a_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'prefixvlm\[demo\]'"):
        next(samples("train"))
