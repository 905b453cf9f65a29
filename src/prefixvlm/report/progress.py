"""What was said of validation images while training goes in; tables with a column a validation come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.report.gallery import Prediction

MAX_STEPS, MAX_ITEMS, MAX_TOKENS = 6, 8, 12


@dataclass(frozen=True)
class Item:
    """One prompt of one image. said: the prediction at each of the steps, None where there was none."""

    key: str
    prompt: str
    references: list[str]
    said: list[Prediction | None]


@dataclass(frozen=True)
class Progress:
    """steps: the columns, the first, the last and some between. num_validations: of how many they are chosen."""

    steps: list[int]
    items: list[Item]
    num_validations: int


@dataclass(frozen=True)
class Prefixes:
    """rows: by the image's key, at each of the steps the tokens that its prefix was nearest to, or None.

    num_tokens: how many there are of each; the first MAX_TOKENS are shown.
    """

    steps: list[int]
    rows: dict[str, list[list[str] | None]]
    num_tokens: int


def progress(examples: Sequence[dict[str, Any]]) -> dict[str, Progress]:
    """By task. examples: as History remembers them, each a prediction with the `step` at which it was made."""
    tasks: dict[str, dict[str, dict[int, Prediction]]] = {}
    for each in examples:
        tasks.setdefault(each["task"], {}).setdefault(each["id"], {})[each["step"]] = each
    return {task: _progress(items) for task, items in tasks.items()}


def prefixes(examples: Sequence[dict[str, Any]]) -> Prefixes | None:
    """Of the images whose nearest tokens are known."""
    images: dict[str, dict[int, list[str]]] = {}
    for each in examples:
        if each.get("nearest"):
            images.setdefault(each["key"], {})[each["step"]] = each["nearest"]
    if not images:
        return None
    steps = _spread(sorted({step for found in images.values() for step in found}), MAX_STEPS)
    rows: dict[str, list[list[str] | None]] = {}
    for key, found in list(images.items())[:MAX_ITEMS]:
        rows[key] = [[_visible(token) for token in found[s][:MAX_TOKENS]] if s in found else None for s in steps]
    return Prefixes(steps, rows, max(len(tokens) for found in images.values() for tokens in found.values()))


def _visible(token: str) -> str:
    """Without the space before a word; white space alone as a sign."""
    return token.strip() or token.replace("\n", "\u23ce").replace("\t", "\u21e5").replace(" ", "\u2423") or "\u2205"


def _progress(items: dict[str, dict[int, Prediction]]) -> Progress:
    every = sorted({step for said in items.values() for step in said})
    steps = _spread(every, MAX_STEPS)
    rows = []
    for said in list(items.values())[:MAX_ITEMS]:
        last = said[max(said)]
        rows.append(Item(last["key"], last["prompt"], last["references"], [said.get(step) for step in steps]))
    return Progress(steps, rows, len(every))


def _spread(steps: list[int], count: int) -> list[int]:
    """The first, the last and, as evenly as may be, those between."""
    if len(steps) <= count:
        return steps
    return [steps[round(place * (len(steps) - 1) / (count - 1))] for place in range(count)]
