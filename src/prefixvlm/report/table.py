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

    @property
    def decimals(self) -> int:
        """Two for percentages, three for scores up to 1 or 10."""
        return 2 if max(abs(self.value), abs(self.blind or 0.0)) >= 10 else 3


def score_rows(result: dict[str, Any]) -> Iterator[ScoreRow]:
    """In the order of the result; a blind score or an interval that is not there is None."""
    for task, scored in result["tasks"].items():
        blind, intervals = scored.get("blind") or {}, scored.get("intervals") or {}
        counts = scored.get("counts", {})
        for score, value in scored["scores"].items():
            interval = (intervals[score][0], intervals[score][1]) if intervals.get(score) else None
            yield ScoreRow(task, score, value, blind.get(score), interval, counts.get(score, scored["num_items"]))


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """With a true minus sign, or a dash where there is no figure."""
    if value is None:
        return "\u2013"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\u2212")


def span(interval: tuple[float, float] | None, decimals: int) -> str:
    if interval is None:
        return number(None, decimals)
    return " … ".join(number(end, decimals) for end in interval)


def text_table(result: dict[str, Any]) -> str:
    """One line a score: words to the left, figures to the right."""
    lines = [("task", "score", "value", "blind", "difference", "95 % interval", "n")]
    for row in score_rows(result):
        value, blind = number(row.value, row.decimals), number(row.blind, row.decimals)
        interval, difference = span(row.interval, row.decimals), number(row.difference, row.decimals, signed=True)
        lines.append((row.task, row.score, value, blind, difference, interval, f"{row.num_items:,}"))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rule = tuple("\u2500" * width for width in widths)
    return "\n".join(_line(cells, widths) for cells in (lines[0], rule, *lines[1:]))


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    figures = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(words + figures)
