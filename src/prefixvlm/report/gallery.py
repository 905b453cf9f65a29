"""The images in the report's gallery, with their predictions."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

LIMIT = 24  # images a task
ROWS_PER_CARD = 4

Prediction = dict[str, Any]  # one line of predictions.jsonl; its `correct` is a bool or a share, 0 to 1
T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """One image of one task.

    score: the mean score of its predictions, where the task is shown by a score and not as right or wrong.
    rows: the predictions to show, wrong ones first. num_wrong, num_right, num_rows: counts over all predictions for the
    image; a prediction without references is neither right nor wrong.
    """

    key: str
    rows: list[Prediction]
    num_wrong: int
    num_right: int
    num_rows: int
    score: float | None = None


def item_scores(result: Mapping[str, Any]) -> dict[str, str]:
    """Return by task the name of the score by which its predictions are shown, without tasks that show right or wrong.

    result: content of metrics.json.
    """
    return {task: scored["item_score"] for task, scored in result["tasks"].items() if scored.get("item_score")}


def gallery_keys(
    predictions: Sequence[Prediction], limit: int = LIMIT, shown_by: Mapping[str, str] | None = None
) -> list[str]:
    """Return the keys of the images that `gallery` shows."""
    cards = gallery(predictions, limit, shown_by).values()
    return list(dict.fromkeys(card.key for each in cards for card in each))


def gallery(
    predictions: Sequence[Prediction], limit: int = LIMIT, shown_by: Mapping[str, str] | None = None
) -> dict[str, list[Card]]:
    """Return up to `limit` cards for each task, half of them with a wrong prediction, which come first.

    The cards are evenly spaced over the predictions, so that the choice is the same each time. shown_by: `item_scores`;
    the cards of these tasks are evenly spaced from the lowest score to the highest.
    """
    images: dict[str, dict[str, list[Prediction]]] = {}
    for line in predictions:
        images.setdefault(line["task"], {}).setdefault(line["key"], []).append(line)
    shown_by = shown_by or {}
    return {
        task: _choose([_card(key, rows, shown_by.get(task)) for key, rows in by_key.items()], limit)
        for task, by_key in images.items()
    }


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


def _card(key: str, rows: list[Prediction], shown_by: str | None) -> Card:
    if shown_by and all(shown_by in row["scores"] for row in rows):
        score = sum(row["scores"][shown_by] for row in rows) / len(rows)
        return Card(key, rows[:ROWS_PER_CARD], 0, 0, len(rows), score)
    wrong, others = [row for row in rows if is_wrong(row)], [row for row in rows if not is_wrong(row)]
    shown = wrong[: ROWS_PER_CARD - 1] + others
    return Card(key, shown[:ROWS_PER_CARD], len(wrong), sum(map(is_right, rows)), len(rows))


def _choose(cards: list[Card], limit: int) -> list[Card]:
    if scored := sorted((card for card in cards if card.score is not None), key=lambda card: card.score or 0):
        count = min(limit, len(scored))
        return [scored[place * (len(scored) - 1) // max(1, count - 1)] for place in range(count)]  # with both ends
    wrong, right = [card for card in cards if card.num_wrong], [card for card in cards if not card.num_wrong]
    num_wrong = min(len(wrong), max(limit // 2, limit - len(right)))
    return _spread(wrong, num_wrong) + _spread(right, min(len(right), limit - num_wrong))


def _spread(items: list[T], count: int) -> list[T]:
    return [items[place * len(items) // count] for place in range(count)]
