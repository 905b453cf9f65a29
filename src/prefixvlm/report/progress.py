"""What was said of validation images while training goes in; a table a task, a column a validation, comes out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefixvlm.report.gallery import Prediction

MAX_STEPS, MAX_ITEMS = 6, 8


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


def progress(examples: Sequence[dict[str, Any]]) -> dict[str, Progress]:
    """By task. examples: as History remembers them, each a prediction with the `step` at which it was made."""
    tasks: dict[str, dict[str, dict[int, Prediction]]] = {}
    for each in examples:
        tasks.setdefault(each["task"], {}).setdefault(each["id"], {})[each["step"]] = each
    return {task: _progress(items) for task, items in tasks.items()}


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
