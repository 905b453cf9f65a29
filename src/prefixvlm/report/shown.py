"""The report or a prediction of a task goes in; what the page draws of it comes out: points, boxes, words, recalls.

A task says in its report how its predictions are `shown_as`: numbers, boxes or tags; all others are texts.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.report.gallery import Prediction

NUMBERS, BOXES, TAGS = "numbers", "boxes", "tags"
_BOX = re.compile(r"(.*?)\s*(\d\.\d{4}) (\d\.\d{4}) (\d\.\d{4}) (\d\.\d{4})(?: (\d\.\d{4}))?")
_RECALL = re.compile(r"(.*?)(text_to_image|image_to_text)_recall_(\d+)")
_WAYS = {"text_to_image": "from a caption to its image", "image_to_text": "from an image to its captions"}


@dataclass(frozen=True)
class ShownBox:
    """Its edges as shares of the image; confidence: None where it has none."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    confidence: float | None

    @property
    def text(self) -> str:
        """ "circle 6 12 49 88 % (sure: 0.93)": left, top, right, bottom."""
        edges = " ".join(f"{100 * edge:.0f}" for edge in (self.x0, self.y0, self.x1, self.y1))
        sure = "" if self.confidence is None else f" (sure: {self.confidence:.2f})"
        return f"{self.label} {edges} %{sure}".strip()


@dataclass(frozen=True)
class Word:
    """A word with the tag that it was given and its true one."""

    word: str
    said: str
    true: str


@dataclass(frozen=True)
class Recall:
    """One way of a search. shares: by K, found among the first K in percent, and with black images or None."""

    way: str
    shares: dict[int, tuple[float, float | None]]


def shown_as(scored: Mapping[str, Any]) -> str:
    return scored.get("shown_as") or ""


def is_shown_otherwise(scored: Mapping[str, Any]) -> bool:
    """Whether the references are no classes, however often they repeat."""
    return bool(shown_as(scored) or recalls(scored))


def points(predictions: Sequence[Prediction]) -> list[tuple[float, float]]:
    """The true and the predicted number of each item that has both."""
    pairs = [(float(line["references"][0]), float(line["prediction"])) for line in predictions if line["references"]]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def boxes(text: str) -> list[ShownBox]:
    """What a prediction or a reference of detection or grounding says."""
    found = [_BOX.fullmatch(each) for each in text.split("; ") if each]
    edges = ((m, [float(edge) for edge in m.groups()[1:5]]) for m in found if m)
    return [ShownBox(m[1], x0, y0, x1, y1, float(m[6]) if m[6] else None) for m, (x0, y0, x1, y1) in edges]


def words(line: Prediction) -> list[Word]:
    """The text of a prediction of tagging, which ends its prompt."""
    said = line["prediction"].split()
    true = line["references"][0].split() if line["references"] else said
    text = line["prompt"].split()
    if len(text) < len(said) or len(said) != len(true):
        return []
    return [Word(*each) for each in zip(text[len(text) - len(said) :], said, true, strict=True)]


def recalls(scored: Mapping[str, Any]) -> list[Recall]:
    """A row each way, in the order of the scores; none of a task that searches nothing."""
    found: dict[str, dict[int, tuple[float, float | None]]] = {}
    blind = scored.get("blind") or {}
    for name, value in scored["scores"].items():
        if match := _RECALL.fullmatch(name):
            who = match[1].strip("_")
            way = f"{who}: {_WAYS[match[2]]}" if who else _WAYS[match[2]]
            found.setdefault(way, {})[int(match[3])] = (value, blind.get(name))
    return [Recall(way, dict(sorted(shares.items()))) for way, shares in found.items()]
