"""Predictions of many images: threads decode the next ones while the model computes."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from prefixvlm.inference.captioner import Captioner, after
from prefixvlm.inference.images import to_image
from prefixvlm.inference.inputs import Item
from prefixvlm.inference.predictor import Answer
from prefixvlm.inference.request import check_num_images
from prefixvlm.task.interface import Task


@dataclass(frozen=True)
class Options:
    """How many images are computed and decoded at a time, the task, and its decoding options."""

    batch_size: int
    workers: int
    task: str | None
    decoding: dict[str, Any]
    shown: Sequence[tuple[Any, str]] = ()  # images with their texts, as demonstrations


def predict_all(
    model: Captioner, items: Iterable[Item], options: Options
) -> Iterator[tuple[Item, list[Answer] | Exception]]:
    """Yield each item with its answers, one for each of its texts, or with the error of its image."""
    with ThreadPoolExecutor(options.workers) as pool:
        waiting: deque[tuple[Item, Future[Image.Image]]] = deque()
        for item in items:
            waiting.append((item, pool.submit(to_image, item.path, model.decoder)))
            if len(waiting) >= 2 * options.batch_size:  # one batch is computed, one is decoded
                yield from _predict_batch(model, _take(waiting, options.batch_size), options)
        while waiting:
            yield from _predict_batch(model, _take(waiting, options.batch_size), options)


def _take(waiting: deque[Any], number: int) -> list[Any]:
    return [waiting.popleft() for _ in range(min(number, len(waiting)))]


def _predict_batch(
    model: Captioner, batch: Sequence[tuple[Item, Future[Image.Image]]], options: Options
) -> Iterator[tuple[Item, list[Answer] | Exception]]:
    outcomes: dict[int, list[Answer] | Exception] = {}
    images: dict[int, Image.Image] = {}
    groups: dict[Any, list[int]] = {}  # of items that are computed together
    for number, (item, decoded) in enumerate(batch):
        try:
            images[number] = decoded.result()
        except (ValueError, OSError, MemoryError) as error:
            outcomes[number] = error
            continue
        task = model.task(item.request, options.task)
        check_num_images(task, 1)
        if options.shown and (task.turn_by_turn or item.choices):
            raise ValueError(f"{item.id} is of a dialogue or has choices, which take no examples; leave out --few-shot")
        # A dialogue goes turn by turn, and choices are ranked for one image.
        together = item.request if task.turn_by_turn else (number if item.choices else None)
        groups.setdefault((task.name, together), []).append(number)
    for (name, _), numbers in groups.items():
        task = model.module.tasks[name].with_decoding(**options.decoding)
        members = [(batch[number][0], images[number]) for number in numbers]
        outcomes |= dict(zip(numbers, _answers(model, task, members, options), strict=True))
    for number, (item, _) in enumerate(batch):
        yield item, outcomes[number]


def _answers(
    model: Captioner, task: Task, members: Sequence[tuple[Item, Image.Image]], options: Options
) -> list[list[Answer]]:
    if task.turn_by_turn:
        texts = members[0][0].request.texts
        found = model.answers_of(task, [(str(item.path), image) for item, image in members], texts)
        return [found[first : first + len(texts)] for first in range(0, len(found), len(texts))]
    rows, asked = [], []
    for item, image in members:
        texts = item.request.texts
        shown = [(each, text, answer) for text in texts[:1] for each, answer in options.shown]
        context = model.context(task, shown if task.takes == "question" else options.shown)
        prompts = task.prompt_rows(task.request(item.id, image, texts))
        rows.append([after(context, replace(row, id=f"{item.id} {row.id}")) for row in prompts])
        asked.append([(str(item.path), image, text) for text in texts])
    if members[0][0].choices:
        (item, image), (text,) = members[0], members[0][0].request.texts
        best = model.rank(image, item.choices, text or None)[0][0]
        return [[Answer(*asked[0][0], task.make_prediction(rows[0][0], best))]]
    predictions = iter(model.predict(task, rows))
    return [[Answer(*each, next(predictions)) for each in of_item] for of_item in asked]
