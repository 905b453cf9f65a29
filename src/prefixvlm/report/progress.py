"""Tables of the predictions for the first validation images, with a column for each validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.report.gallery import Prediction

MAX_STEPS, MAX_ITEMS, MAX_TOKENS = 6, 8, 12


@dataclass(frozen=True)
class Item:
    """One prompt of one image. predictions: at each of the steps, None where there was none."""

    key: str
    prompt: str
    references: list[str]
    predictions: list[Prediction | None]


@dataclass(frozen=True)
class Progress:
    """steps: the columns, chosen from num_validations: the first, the last and some in between."""

    steps: list[int]
    items: list[Item]
    num_validations: int


@dataclass(frozen=True)
class Prefixes:
    """rows: by the image's key, the tokens nearest to its prefix at each of the steps, or None.

    num_tokens: of each prefix; the first MAX_TOKENS are shown.
    """

    steps: list[int]
    rows: dict[str, list[list[str] | None]]
    num_tokens: int


def progress(examples: Sequence[dict[str, Any]]) -> dict[str, Progress]:
    """Return a table for each task. examples: of the History callback, predictions with the `step` of each."""
    tasks: dict[str, dict[str, dict[int, Prediction]]] = {}
    for each in examples:
        tasks.setdefault(each["task"], {}).setdefault(each["id"], {})[each["step"]] = each
    return {task: _progress(items) for task, items in tasks.items()}


def prefixes(examples: Sequence[dict[str, Any]]) -> Prefixes | None:
    """Return the table of nearest tokens, or None if none were recorded."""
    images: dict[str, dict[int, list[str]]] = {}
    for each in examples:
        if each.get("nearest"):
            images.setdefault(each["key"], {})[each["step"]] = each["nearest"]
    if not images:
        return None
    steps = _spread(sorted({step for tokens in images.values() for step in tokens}), MAX_STEPS)
    rows: dict[str, list[list[str] | None]] = {}
    for key, by_step in list(images.items())[:MAX_ITEMS]:
        rows[key] = [[_visible(token) for token in by_step[s][:MAX_TOKENS]] if s in by_step else None for s in steps]
    return Prefixes(steps, rows, max(len(tokens) for by_step in images.values() for tokens in by_step.values()))


def _visible(token: str) -> str:
    """Return a token without the space before it; white space alone as a visible sign."""
    return token.strip() or token.replace("\n", "\u23ce").replace("\t", "\u21e5").replace(" ", "\u2423") or "\u2205"


def _progress(items: dict[str, dict[int, Prediction]]) -> Progress:
    validations = sorted({step for by_step in items.values() for step in by_step})
    steps = _spread(validations, MAX_STEPS)
    rows = []
    for by_step in list(items.values())[:MAX_ITEMS]:
        last = by_step[max(by_step)]
        rows.append(Item(last["key"], last["prompt"], last["references"], [by_step.get(step) for step in steps]))
    return Progress(steps, rows, len(validations))


def _spread(steps: list[int], count: int) -> list[int]:
    """Return the first, the last and evenly chosen ones in between."""
    if len(steps) <= count:
        return steps
    return [steps[round(place * (len(steps) - 1) / (count - 1))] for place in range(count)]
