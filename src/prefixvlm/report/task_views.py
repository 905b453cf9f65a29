"""Data of a task for the report besides text: boxes, tagged words, numbers, and tables of scores.

The key `shown_as` of a task's scores chooses the view; the data is in `details` of each prediction.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.report.gallery import Prediction


@dataclass(frozen=True)
class BoxView:
    """A box to draw. Edges are fractions of the image; confidence: None if it has none."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float
    confidence: float | None

    @property
    def text(self) -> str:
        """The label, then left, top, right and bottom in percent: "circle 6 12 49 88 % (sure: 0.93)"."""
        edges = " ".join(f"{100 * edge:.0f}" for edge in (self.x0, self.y0, self.x1, self.y1))
        confidence = "" if self.confidence is None else f" (sure: {self.confidence:.2f})"
        return f"{self.label} {edges} %{confidence}".strip()


@dataclass(frozen=True)
class WordView:
    """A word with its predicted and its true tag."""

    word: str
    predicted: str
    true: str


@dataclass(frozen=True)
class ScoreTableRow:
    """A row of a table of scores. values: the score and the blind score, or None, by column."""

    name: str
    values: dict[str, tuple[float, float | None]]


def shown_as(scored: Mapping[str, Any]) -> str:
    """Return the view of a task's predictions: text, boxes, tags or numbers."""
    return scored.get("shown_as") or "text"


def has_classes(scored: Mapping[str, Any]) -> bool:
    """Return whether repeated references may be classes."""
    return shown_as(scored) == "text" and not scored.get("tables")


def points(predictions: Sequence[Prediction]) -> list[tuple[float, float]]:
    """Return the true and the predicted number of each item that has a reference."""
    pairs = [(float(line["references"][0]), float(line["prediction"])) for line in predictions if line["references"]]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def boxes(line: Prediction, key: str = "boxes") -> list[BoxView]:
    """Return the boxes of a line. key: boxes for the predicted, true_boxes for the true ones."""
    return [BoxView(**box) for box in line.get("details", {}).get(key, ())]


def words(line: Prediction) -> list[WordView]:
    """Return the words of a line with their tags."""
    return [WordView(*each) for each in line.get("details", {}).get("words", ())]


def score_table(scored: Mapping[str, Any]) -> list[ScoreTableRow]:
    """Return the rows of the table in which a task arranges its scores, in their order; empty for most tasks."""
    rows: dict[str, dict[str, tuple[float, float | None]]] = {}
    blind = scored.get("blind") or {}
    for name, (row, column) in (scored.get("tables") or {}).items():
        if name in scored["scores"]:
            rows.setdefault(row, {})[column] = (scored["scores"][name], blind.get(name))
    return [ScoreTableRow(row, values) for row, values in rows.items()]
