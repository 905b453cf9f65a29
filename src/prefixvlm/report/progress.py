"""Tables of validation predictions in the course of training, with a column per validation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.report.gallery import Prediction

MAX_STEPS, MAX_ITEMS, MAX_TOKENS = 6, 8, 12


@dataclass(frozen=True)
class Item:
    """One prompt of one image. predictions: the prediction at each step, None if there was none."""

    key: str
    prompt: str
    references: list[str]
    predictions: list[Prediction | None]


@dataclass(frozen=True)
class Progress:
    """A table of one task. steps: its columns, which are at most MAX_STEPS of num_validations validations."""

    steps: list[int]
    items: list[Item]
    num_validations: int


@dataclass(frozen=True)
class Prefixes:
    """A table of the tokens nearest to the prefix embeddings.

    rows: by the key of an image, the tokens at each step, None if there are none. num_tokens: length of the prefix, of
    which the first MAX_TOKENS are shown.
    """

    steps: list[int]
    rows: dict[str, list[list[str] | None]]
    num_tokens: int


def progress(examples: Sequence[dict[str, Any]]) -> dict[str, Progress]:
    """Return a table for each task. examples: predictions with their `step`, from the History callback."""
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
    """Return a token without the space before it, or a symbol for a token of white space alone."""
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
    """Return the first step, the last and evenly spaced ones in between."""
    if len(steps) <= count:
        return steps
    return [steps[round(place * (len(steps) - 1) / (count - 1))] for place in range(count)]
