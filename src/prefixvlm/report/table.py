"""The table of scores of an evaluation, as rows for the report and as text for the terminal."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

MAX_ROWS = 20  # scores a task in the terminal: VQAv2 has 65 types of question
BASELINES = {
    "blind": "the same evaluation with every image black",
    "shuffled": "the model's own outputs, each given to another image",
    "nearest": "a caption of the training image whose features are nearest",
}


@dataclass(frozen=True)
class Difference:
    """The score minus that of a baseline, with its 95 % interval and p-value if they are known."""

    value: float
    interval: tuple[float, float] | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class ScoreRow:
    """One score of one task.

    baselines: the same score of each baseline, None if it has none. differences: to the baselines that have it.
    interval: 95 % confidence interval. spread: standard deviation over trials. decimals: number of decimals to show.
    """

    task: str
    score: str
    value: float
    interval: tuple[float, float] | None
    num_items: int
    spread: float | None = None
    decimals: int = 2
    baselines: dict[str, float | None] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)


def score_rows(result: dict[str, Any]) -> Iterator[ScoreRow]:
    """Yield the scores in the order of the result, which an earlier version may have written."""
    known = [name for name in BASELINES if any(scored.get(name) for scored in result["tasks"].values())]
    for task, scored in result["tasks"].items():
        intervals, tested = scored.get("intervals") or {}, scored.get("differences") or {}
        counts, spread, digits = (scored.get(key) or {} for key in ("counts", "spread", "digits"))
        for score, value in scored["scores"].items():
            baselines = {name: (scored.get(name) or {}).get(score) for name in known}
            yield ScoreRow(
                task,
                score,
                value,
                interval=_pair(intervals.get(score)),
                num_items=counts.get(score, scored["num_items"]),
                spread=spread.get(score),
                decimals=digits.get(score, 2),
                baselines=baselines,
                differences={
                    name: _difference(value - other, (tested.get(name) or {}).get(score) or {})
                    for name, other in baselines.items()
                    if other is not None and value is not None
                },
            )


def _difference(value: float, tested: dict[str, Any]) -> Difference:
    return Difference(value, _pair(tested.get("interval")), tested.get("p_value"))


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return (interval[0], interval[1]) if interval else None


def number(value: float | None, decimals: int, signed: bool = False) -> str:
    """Format a number with a minus sign, or a dash for None."""
    if value is None:
        return "\u2013"
    return f"{value:{'+' if signed else ''}.{decimals}f}".replace("-", "\u2212")


def span(interval: tuple[float, float] | None, decimals: int, signed: bool = False) -> str:
    if interval is None:
        return number(None, decimals)
    return " … ".join(number(end, decimals, signed) for end in interval)


def p_text(p_value: float | None) -> str:
    """Format a p-value with three digits after the point."""
    return "<0.001" if p_value is not None and p_value < 0.001 else number(p_value, 3)


def text_table(result: dict[str, Any]) -> str:
    """Return a table with the first MAX_ROWS scores of each task, and one of their differences to the baselines."""
    rows = list(score_rows(result))
    counts = Counter(row.task for row in rows)
    shown = [row for task in counts for row in [row for row in rows if row.task == task][:MAX_ROWS]]
    lines = _scores(shown)
    lines += [
        f"({count - MAX_ROWS} more scores of {task} are in metrics.json)"
        for task, count in counts.items()
        if count > MAX_ROWS
    ]
    return "\n".join(lines + _differences(shown))


def _scores(rows: Sequence[ScoreRow]) -> list[str]:
    trials, baselines = any(row.spread is not None for row in rows), list(rows[0].baselines) if rows else []
    head = ("task", "score", "value", *(["± spread"] if trials else []), "95 % interval", *baselines, "n")
    cells = [
        (
            row.task,
            row.score,
            number(row.value, row.decimals),
            *([number(row.spread, row.decimals)] if trials else []),
            span(row.interval, row.decimals),
            *(number(value, row.decimals) for value in row.baselines.values()),
            f"{row.num_items:,}",
        )
        for row in rows
    ]
    return _aligned(head, cells)


def _differences(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the lines about differences whose significance is known; none if there are none."""
    known = [name for name in BASELINES if any(_is_tested(row, name) for row in rows)]
    cells = []
    for row in rows:
        tested = [row.differences[name] if _is_tested(row, name) else None for name in known]
        if any(tested):
            cells.append((row.task, row.score, *(cell for each in tested for cell in _cells(each, row.decimals))))
    if not cells:
        return []
    head = ("task", "score", *(cell for name in known for cell in (f"over {name}", "95 % interval", "p")))
    return ["", *(f"{name}: {BASELINES[name]}" for name in known), *_aligned(head, cells)]


def _is_tested(row: ScoreRow, baseline: str) -> bool:
    return baseline in row.differences and row.differences[baseline].p_value is not None


def _cells(each: Difference | None, decimals: int) -> tuple[str, ...]:
    if each is None:
        return (number(None, 0),) * 3
    return number(each.value, decimals, signed=True), span(each.interval, decimals, signed=True), p_text(each.p_value)


def _aligned(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    rule = tuple("\u2500" * width for width in widths)
    return [_line(cells, widths) for cells in (head, rule, *rows)]


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    words = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2], strict=True)]
    figures = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True)]
    return "  ".join(words + figures)
