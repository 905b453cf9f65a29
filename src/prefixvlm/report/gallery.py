"""The images in the report's gallery, with their predictions."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

LIMIT = 24  # images a task
ROWS_PER_CARD = 4

Prediction = dict[str, Any]  # one line of predictions.jsonl; its `correct` is a bool or a share, 0 to 1
T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """One image of one task.

    rows: the predictions to show, wrong ones first. num_wrong, num_right, num_rows: counts over all predictions for the
    image; a prediction without references is neither right nor wrong.
    """

    key: str
    rows: list[Prediction]
    num_wrong: int
    num_right: int
    num_rows: int


def gallery_keys(predictions: Sequence[Prediction], limit: int = LIMIT) -> list[str]:
    """Return the keys of the images that `gallery` shows."""
    return list(dict.fromkeys(card.key for cards in gallery(predictions, limit).values() for card in cards))


def gallery(predictions: Sequence[Prediction], limit: int = LIMIT) -> dict[str, list[Card]]:
    """Return up to `limit` cards for each task, half of them with a wrong prediction, which come first.

    The cards are evenly spaced over the predictions, so that the choice is the same each time.
    """
    images: dict[str, dict[str, list[Prediction]]] = {}
    for line in predictions:
        images.setdefault(line["task"], {}).setdefault(line["key"], []).append(line)
    return {task: _choose([_card(key, rows) for key, rows in by_key.items()], limit) for task, by_key in images.items()}


def is_right(line: Prediction) -> bool:
    """Return whether a prediction is at least half correct."""
    return line["correct"] is not None and line["correct"] >= 0.5


def is_wrong(line: Prediction) -> bool:
    return line["correct"] is not None and line["correct"] < 0.5


def frame(predictions: Sequence[Prediction]) -> tuple[str, str]:
    """Return the text before and after the question in all prompts, such as "Question: " and " Answer:"."""
    # The cards leave it out, because it says nothing about the image.
    prompts = {line["prompt"] for line in predictions}
    if len(prompts) < 2:
        return "", ""
    start, end = _shared_start(prompts), _shared_start({prompt[::-1] for prompt in prompts})[::-1]
    # Only up to a colon or a line break: questions may also begin with the same words, such as "what is the".
    head = re.findall(r"^.*[:\n]\s*", start, re.DOTALL)
    tail = re.findall(r"\s\S*:\s*$", end)
    return "".join(head), "".join(tail)


def _shared_start(texts: Collection[str]) -> str:
    first, last = min(texts), max(texts)  # in alphabetical order the first and the last differ earliest
    pairs = enumerate(zip(first, last, strict=False))
    return first[: next((place for place, (a, b) in pairs if a != b), len(first))]


def _card(key: str, rows: list[Prediction]) -> Card:
    wrong, others = [row for row in rows if is_wrong(row)], [row for row in rows if not is_wrong(row)]
    shown = wrong[: ROWS_PER_CARD - 1] + others
    return Card(key, shown[:ROWS_PER_CARD], len(wrong), sum(map(is_right, rows)), len(rows))


def _choose(cards: list[Card], limit: int) -> list[Card]:
    wrong, right = [card for card in cards if card.num_wrong], [card for card in cards if not card.num_wrong]
    num_wrong = min(len(wrong), max(limit // 2, limit - len(right)))
    return _spread(wrong, num_wrong) + _spread(right, min(len(right), limit - num_wrong))


def _spread(items: list[T], count: int) -> list[T]:
    return [items[place * len(items) // count] for place in range(count)]
