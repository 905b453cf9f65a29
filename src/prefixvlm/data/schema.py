"""The json member of a sample goes in; its fields, checked one by one, come out."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

BIO = re.compile(r"O|[BI]-\S+")


@dataclass(frozen=True)
class Question:
    """A question about an image; its id is unique within the data set.

    answers: none where they are kept secret, as in a test split. choices: what the answer is one of, if that is known.
    groups: what scores are also reported by, as {"answer_type": "yes/no"}.
    """

    id: str
    question: str
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Box:
    """Where a thing is: left, top, right and bottom edge as shares of the image's width and height."""

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
    """A text in words, each with its tag: O, or B- and I- with the name of what begins or goes on there (BIO)."""

    words: tuple[str, ...]
    tags: tuple[str, ...]


def content_of(members: Mapping[str, bytes]) -> dict[str, object]:
    try:
        content = json.loads(members.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the json member does not parse ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"the json member holds a {type(content).__name__}; it must hold an object")
    return content


def question(content: object) -> Question:
    if not isinstance(content, dict) or not content.keys() >= {"id", "question", "answers"}:
        raise ValueError(f"a question is {content!r:.80}; it must be an object with id, question and answers")
    id_, asked = texts([content["id"], content["question"]], "id and question")
    answers, choices = texts(content["answers"], "answers"), texts(content.get("choices", []), "choices")
    return Question(id_, asked, answers, choices, names(content, "groups"))


def box(content: object) -> Box:
    """{"label": "circle", "box": [x0, y0, x1, y1]}, in shares of the image."""
    if not isinstance(content, dict) or not isinstance(content.get("box"), list) or len(content["box"]) != 4:
        raise ValueError(f"a box is {content!r:.80}; it must be an object with a label and a box of four numbers")
    label = content.get("label")
    if not isinstance(label, str) or not label.strip():
        raise ValueError(f"the label of a box is {label!r:.80}; it must be a text")
    x0, y0, x1, y1 = (_number(value, "an edge of a box") for value in content["box"])
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        raise ValueError(
            f"a box is {content['box']}; it must be left, top, right, bottom as shares of the image, 0 to 1"
        )
    return Box(label, x0, y0, x1, y1)


def tagged(content: object) -> Tagged:
    """{"words": ["a", "dog"], "tags": ["O", "B-ANIMAL"]}."""
    if not isinstance(content, dict):
        raise ValueError(f"a tagged text is {content!r:.80}; it must be an object with words and tags")
    words, tags = (texts(content.get(name), f"the {name} of a tagged text") for name in ("words", "tags"))
    if wrong := [word for word in words if len(word.split()) > 1]:
        raise ValueError(f"a word of a tagged text is {wrong[0]!r}; words have no spaces")
    if len(words) != len(tags):
        raise ValueError(f"a tagged text has {len(words)} words and {len(tags)} tags; each word needs one")
    if wrong := [tag for tag in tags if not BIO.fullmatch(tag)]:
        raise ValueError(f"a tag is {wrong[0]!r}; accepted are O, B-NAME and I-NAME, without spaces")
    return Tagged(words, tags)


def numbers(content: Mapping[str, object], name: str) -> dict[str, float]:
    """A flat object of numbers."""
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}; it must be an object")
    return {key: _number(each, name) for key, each in value.items()}


def lists_of_texts(content: Mapping[str, object], name: str) -> dict[str, tuple[str, ...]]:
    """A flat object of lists of texts."""
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}; it must be an object")
    return {key: texts(each, name) for key, each in value.items()}


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} has {value!r:.80}; it must be a number")
    return float(value)


def list_of(content: Mapping[str, object], name: str) -> list[object]:
    value = content.get(name, [])
    if not isinstance(value, list):
        raise ValueError(f"{name} is {value!r:.80}; it must be a list")
    return value


def names(content: Mapping[str, object], name: str) -> dict[str, str]:
    """A flat object of texts."""
    value = content.get(name, {})
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{name} is {value!r:.80}; it must be an object of texts")
    return dict(zip(value, texts(list(value.values()), name), strict=True))


def texts(content: object, name: str) -> tuple[str, ...]:
    if not isinstance(content, list) or not all(isinstance(text, str) and text.strip() for text in content):
        raise ValueError(f"{name} is {content!r:.80}; it must be a list of texts, none of them empty")
    try:
        "".join(content).encode()
    except UnicodeEncodeError as error:  # JSON can hold half a surrogate pair, which no file can
        raise ValueError(f"{name} is {content!r:.80}, which is not valid Unicode") from error
    return tuple(content)
