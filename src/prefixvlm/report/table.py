"""The table of scores of an evaluation, as rows for the report and as text for the terminal."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

MAX_ROWS = 20  # scores a task in the terminal: VQAv2 has 65 types of question
HEADS = ("blind", "difference", "95 % interval", "n")


@dataclass(frozen=True)
class ScoreRow:
    """One score of one task.

    blind: the same score with black images. interval: 95 % confidence interval. spread: standard deviation over trials.
    decimals: number of decimals to show.
    """

    task: str
    score: str
    value: float
    blind: float | None
    interval: tuple[float, float] | None
    num_items: int
    spread: float | None = None
    decimals: int = 2

    @property
    def difference(self) -> float | None:
        return None if self.blind is None else self.value - self.blind


def score_rows(result: dict[str, Any]) -> Iterator[ScoreRow]:
    """Yield the scores in the order of the result."""
    for task, scored in result["tasks"].items():
        blind, intervals = scored.get("blind") or {}, scored.get("intervals") or {}
        counts, spread, digits = (scored.get(key) or {} for key in ("counts", "spread", "digits"))
        for score, value in scored["scores"].items():
            interval = (intervals[score][0], intervals[score][1]) if intervals.get(score) else None
            count = counts.get(score, scored["num_items"])
            decimals = digits.get(score, 2)
            yield ScoreRow(task, score, value, blind.get(score), interval, count, spread.get(score), decimals)


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """Format a number with a minus sign, or a dash for None."""
    if value is None:
        return "\u2013"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\u2212")


def span(interval: tuple[float, float] | None, decimals: int) -> str:
    if interval is None:
        return number(None, decimals)
    return " … ".join(number(end, decimals) for end in interval)


def text_table(result: dict[str, Any]) -> str:
    """Return a text with a line for each of the first MAX_ROWS scores of each task."""
    rows = list(score_rows(result))
    counts = Counter(row.task for row in rows)
    shown = [row for task in counts for row in [row for row in rows if row.task == task][:MAX_ROWS]]
    trials = any(row.spread is not None for row in rows)
    lines = [_cells(row, trials) for row in shown]
    lines.insert(0, ("task", "score", "value", *(["± spread"] if trials else []), *HEADS))
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rule = tuple("\u2500" * width for width in widths)
    more = [
        f"({count - MAX_ROWS} more scores of {task} are in metrics.json)"
        for task, count in counts.items()
        if count > MAX_ROWS
    ]
    return "\n".join([*(_line(cells, widths) for cells in (lines[0], rule, *lines[1:])), *more])


def _cells(row: ScoreRow, trials: bool) -> tuple[str, ...]:
    value, blind = number(row.value, row.decimals), number(row.blind, row.decimals)
    spread = [number(row.spread, row.decimals)] if trials else []
    interval, difference = span(row.interval, row.decimals), number(row.difference, row.decimals, signed=True)
    return (row.task, row.score, value, *spread, blind, difference, interval, f"{row.num_items:,}")


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    figures = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(words + figures)
