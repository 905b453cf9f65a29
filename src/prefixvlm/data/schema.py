"""Fields of a sample's json member: parsing and validation."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefixvlm.strict_json import parse_json

BIO = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True)
class Question:
    """A question about an image.

    id: unique within the data set. answers: empty if they are secret, as in a test split.
    choices: the possible answers, if the data set lists them.
    groups: scores are also reported by these, as {"answer_type": "yes/no"}.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """A labelled bounding box; left, top, right and bottom are fractions of the image's width and height."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def edges(self) -> tuple[float, float, float, float]:
        return self.x0, self.y0, self.x1, self.y1


@dataclass(frozen=True)
class Tagged:
    """A text as words with one BIO tag each: B-NAME begins a span, I-NAME continues it, O is outside of spans."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def json_member(members: Mapping[str, bytes]) -> dict[str, object]:
    """Return the object in the json member, {} without one."""
    try:
        content: object = parse_json(members.get("json", b"{}"), Any)
    except ValueError as error:
        raise ValueError(f"the json member does not parse ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"the json member holds a {type(content).__name__}; it must hold an object")
    return content


def parse_question(content: object) -> Question:
    """Parse {"id": "7", "question": "what?", "answers": ["a dog"], "choices": [...], "groups": {...}}."""
    if not isinstance(content, dict) or not content.keys() >= {"id", "question", "answers"}:
        raise ValueError(f"a question is {content!r:.80}; it must be an object with id, question and answers")
    id_, question = parse_texts([content["id"], content["question"]], "id and question")
    answers = parse_texts(content["answers"], "answers")
    choices = parse_texts(content.get("choices", []), "choices")
    return Question(id_, question, answers, choices, text_fields(content, "groups"))


def parse_box(content: object) -> Box:
    """Parse {"label": "circle", "box": [x0, y0, x1, y1]}, in fractions of the image."""
    if not isinstance(content, dict) or not isinstance(content.get("box"), list) or len(content["box"]) != 4:
        raise ValueError(f"a box is {content!r:.80}; it must be an object with a label and a box of four numbers")
    label = content.get("label")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"the label of a box is {label!r:.80}; it must be a text")
    x0, y0, x1, y1 = (_parse_number(value, "an edge of a box") for value in content["box"])
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"a box is {content['box']}; it must be left, top, right, bottom as shares of the image, 0 to 1"
        )
    return Box(label, x0, y0, x1, y1)


def parse_tagged(content: object) -> Tagged:
    """Parse {"words": ["a", "dog"], "tags": ["O", "B-ANIMAL"]}."""
    if not isinstance(content, dict):
        raise ValueError(f"a tagged text is {content!r:.80}; it must be an object with words and tags")
    words, tags = (parse_texts(content.get(name), f"the {name} of a tagged text") for name in ("words", "tags"))
    if wrong := [word for word in words if len(word.split()) > 1]:
        raise ValueError(f"a word of a tagged text is {wrong[0]!r}; words have no spaces")
    if len(words) != len(tags):
        raise ValueError(f"a tagged text has {len(words)} words and {len(tags)} tags; each word needs one")
    if wrong := [tag for tag in tags if not BIO.fullmatch(tag)]:
        raise ValueError(f"a tag is {wrong[0]!r}; accepted are O, B-NAME and I-NAME, without spaces")
    return Tagged(words, tags)


def parse_texts(content: object, name: str) -> tuple[str, ...]:
    """Parse a list of texts, none of them blank. name: the field, for the error message."""
    if not isinstance(content, list) or not all(isinstance(text, str) and text.strip() for text in content):
        raise ValueError(f"{name} is {content!r:.80}; it must be a list of texts, none of them empty")
    try:
        "".join(content).encode()
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no file can hold
        raise ValueError(f"{name} is {content!r:.80}, which is not valid Unicode") from error
    return tuple(content)


def list_field(content: Mapping[str, object], name: str) -> list[object]:
    value = content.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r:.80}; it must be a list")
    return value


def text_fields(content: Mapping[str, object], name: str) -> dict[str, str]:
    """Return the field as {name: text}."""
    value = content.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{name} is {value!r:.80}; it must be an object of texts")
    return dict(zip(value, parse_texts(list(value.values()), name), strict=True))


def text_list_fields(content: Mapping[str, object], name: str) -> dict[str, tuple[str, ...]]:
    """Return the field as {name: texts}."""
    return {key: parse_texts(each, name) for key, each in _object_field(content, name).items()}


def number_fields(content: Mapping[str, object], name: str) -> dict[str, float]:
    """Return the field as {name: number}."""
    return {key: _parse_number(each, name) for key, each in _object_field(content, name).items()}


def _object_field(content: Mapping[str, object], name: str) -> dict[str, object]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}; it must be an object")
    return value


def _parse_number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} has {value!r:.80}; it must be a number")
    return float(value)
