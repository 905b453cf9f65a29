"""easy-VQA from the installed package `easy_vqa`: one sample for each image with its caption and questions.

64 x 64 drawings of one shape in one colour, with questions and answers from templates. The data set has no captions;
the captions here contain what follows from the answers about the image, and no more.
"""

import hashlib
import importlib.util
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from prefixvlm.data.image import decode_image
from prefixvlm.data.shards.tar_writer import Members
from prefixvlm.strict_json import read_json

SOURCE = "easy-VQA 1.0 by Victor Zhou, https://github.com/vzhou842/easy-VQA, from the PyPI package easy-vqa, annotated"
LICENCE = "MIT, by the package's classifier (its licence field says UNKNOWN)"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS: dict[str, str] = {}  # the package contains the data
VAL_SHARE = 0.1  # of the published training images; the published test images are the test split

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
NAMES = (COLOURS, SHAPES)
_COLOUR = f"(?P<color>{'|'.join(COLOURS)})"
_SHAPE = f"(?P<shape>{'|'.join(SHAPES)})"
_THING = f"(?:{_COLOUR} shape|{_SHAPE})"
_COLOUR_QUESTION = re.compile(rf"what (?:color is|is the color of) the (?:shape|{_SHAPE})\?")
_SHAPE_QUESTION = re.compile(
    rf"what (?:is the {_COLOUR} shape|shape is present|shape is in the image|shape does the image contain)\?"
)
_EXISTENCE_QUESTIONS = (
    re.compile(rf"is there (?P<no>not )?a {_THING}(?: in the image)?\?"),
    re.compile(rf"does the image (?P<no>not )?contain a {_THING}\?"),
    re.compile(rf"is (?:a|(?P<no>no)) {_THING} present\?"),
)


def samples(split: str) -> Iterator[tuple[str, Members]]:
    """Yield key and members (png, json) of each image of the split, in the order of the image numbers."""
    published = "test" if split == "test" else "train"
    folder = _folder() / published
    questions: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, image in read_json(folder / "questions.json", list[Any], "the questions of easy-VQA"):
        questions[image].append((question, answer))
    for image in _images(split, questions):
        key = f"{published}-{image:04d}"
        content = {
            "captions": [caption(questions[image])],
            "questions": [
                {"id": f"{key}-{number}", "question": question, "answers": [answer]}
                for number, (question, answer) in enumerate(questions[image])
            ],
            **annotations(key, folder / "images" / f"{image}.png", labels(questions[image])),
        }
        yield key, {"png": folder / "images" / f"{image}.png", "json": json.dumps(content).encode()}


def annotations(key: str, path: Path, facts: dict[str, str]) -> dict[str, Any]:
    """Return what follows from the answers and the pixels: labels, area of the shape, its box, and a tagged text.

    facts: `color` and `shape`, if known. The tagged text names the shape and another one, in random order seeded by the
    key; the shape in the image is tagged.
    """
    pixels = np.asarray(decode_image(path.read_bytes()))
    colours, counts = np.unique(pixels.reshape(-1, 3), axis=0, return_counts=True)
    mask = (pixels != colours[counts.argmax()]).any(-1)  # the background has the most pixels
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    edges = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    content: dict[str, Any] = {"labels": facts, "values": {"area": round(float(mask.mean()), 6)}}
    if facts:
        content["label_sets"] = {"seen": sorted(facts.values())}
    if "shape" in facts:
        content["boxes"] = [{"label": facts["shape"], "box": [float(edge) / len(pixels) for edge in edges]}]
    if facts.keys() == {"color", "shape"}:
        content["tagged"] = [_tagged(facts, random.Random(key))]
    return content


def _tagged(facts: dict[str, str], rng: random.Random) -> dict[str, list[str]]:
    """Return the words "a red circle or a blue triangle", with B-SEEN and I-SEEN on the shape in the image."""
    seen = [facts["color"], facts["shape"]]
    other = [rng.choice([name for name in names if name != one]) for names, one in zip(NAMES, seen, strict=True)]
    pairs = [(seen, ["B-SEEN", "I-SEEN"]), (other, ["O", "O"])]
    rng.shuffle(pairs)
    (first, first_tags), (second, second_tags) = pairs
    return {"words": ["a", *first, "or", "a", *second], "tags": ["O", *first_tags, "O", "O", *second_tags]}


def caption(questions: Iterable[tuple[str, str]]) -> str:
    """Return a caption of what follows from the answers, as "a blue rectangle", "a blue shape" or "a shape"."""
    facts = labels(questions)
    return " ".join(["a", *([facts["color"]] if "color" in facts else []), facts.get("shape", "shape")])


def labels(questions: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the `color` and the `shape` that follow from the answers. Raises ValueError if they contradict."""
    facts: dict[str, str] = {}
    for question, answer in questions:
        for name, value in facts_of(question, answer).items():
            if facts.setdefault(name, value) != value:
                raise ValueError(f"the answers contradict each other: the {name} is both {facts[name]} and {value}")
    return facts


def facts_of(question: str, answer: str) -> dict[str, str]:
    """Return the `color` and the `shape` that follow from one answer; {} for an unknown phrasing or a "no"."""
    if match := _COLOUR_QUESTION.fullmatch(question):
        return _facts_in_question(match) | {"color": answer}
    if match := _SHAPE_QUESTION.fullmatch(question):
        return _facts_in_question(match) | {"shape": answer}
    for pattern in _EXISTENCE_QUESTIONS:
        if match := pattern.fullmatch(question):
            return _facts_in_question(match) if answer == ("no" if match["no"] else "yes") else {}
    return {}


def _facts_in_question(match: re.Match[str]) -> dict[str, str]:
    return {name: value for name, value in match.groupdict().items() if value and name != "no"}


def _images(split: str, images: Iterable[int]) -> list[int]:
    if split == "test":
        return sorted(images)
    shuffled = sorted(images, key=lambda image: hashlib.sha256(str(image).encode()).digest())
    num_val = round(VAL_SHARE * len(shuffled))
    return sorted(shuffled[:num_val] if split == "val" else shuffled[num_val:])


def _folder() -> Path:
    package = importlib.util.find_spec("easy_vqa")
    if package is None or package.origin is None:
        raise ValueError("the package easy-vqa is not installed; `pip install 'prefixvlm[demo]'` brings it")
    return Path(package.origin).parent / "data"
