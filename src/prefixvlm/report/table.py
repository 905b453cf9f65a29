"""The result of an evaluation goes in; its score table comes out, as rows for the page and as text for the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScoreRow:
    """One score of one task. blind: the same score with black images. interval: 95 %, around value."""

    task: str
    score: str
    value: float
    blind: float | None
    interval: tuple[float, float] | None
    num_items: int

    @property
    def difference(self) -> float | None:
        return None if self.blind is None else self.value - self.blind


def score_rows(result: dict[str, Any]) -> Iterator[ScoreRow]:
    """In the order of the result; a blind score or an interval that is not there is None."""
    for task, scored in result["tasks"].items():
        blind, intervals = scored.get("blind") or {}, scored.get("intervals") or {}
        for score, value in scored["scores"].items():
            interval = tuple(intervals[score]) if intervals.get(score) else None
            yield ScoreRow(task, score, value, blind.get(score), interval, scored["num_items"])


def number(value: float | None, signed: bool = False) -> str:
    """Two decimals with a true minus sign, or a dash where there is no figure."""
    if value is None:
        return "–"  # noqa: RUF001
    return f"{value:{'+' if signed else ''}.2f}".replace("-", "\u2212")


def span(interval: tuple[float, float] | None) -> str:
    return number(None) if interval is None else f"{number(interval[0])} … {number(interval[1])}"


def text_table(result: dict[str, Any]) -> str:
    """One line a score: words to the left, figures to the right."""
    lines = [("task", "score", "value", "95 % interval", "blind", "difference", "n")]
    for row in score_rows(result):
        figures = (number(row.value), span(row.interval), number(row.blind), number(row.difference, signed=True))
        lines.append((row.task, row.score, *figures, f"{row.num_items:,}"))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rule = tuple("\u2500" * width for width in widths)
    return "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    aligned = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(cells, widths))]
    return "  ".join(aligned).rstrip()
