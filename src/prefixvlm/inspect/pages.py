"""Explanations of several images, and the pages of an evaluation."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from prefixvlm.atomic import write_text
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.images import ImageInput, to_image
from prefixvlm.inspect.explanation import Explanation, explain
from prefixvlm.inspect.page import render
from prefixvlm.inspect.target import NothingSaidError, check_task, target_of
from prefixvlm.report.gallery import Prediction, gallery
from prefixvlm.task.interface import Task

FOLDER = "inspect"  # beside report.html


@dataclass(frozen=True)
class Asked:
    """An image to explain. question: None for the image alone. text: None for what the model says."""

    name: str
    image: ImageInput
    question: str | None = None
    text: str | None = None


def explain_all(
    model: Captioner, asked: Sequence[Asked], task: str | None = None, other: tuple[str, ImageInput] | None = None
) -> Iterator[Explanation | ValueError | OSError]:
    """Yield the explanation of each image; first the errors of those that cannot be read.

    task: name of the task, if several fit. other: name and image of the prefix that takes the place of each; by default
    that of the next image.
    """
    swapped = (other[0], to_image(other[1], model.decoder)) if other else None
    read: list[tuple[Asked, Image.Image]] = []
    for each in asked:
        try:
            read.append((each, to_image(each.image, model.decoder)))
        except (ValueError, OSError) as error:
            yield error
    for number, (each, image) in enumerate(read):
        try:
            target = target_of(model, image, each.question, each.text, task)
        except NothingSaidError as error:
            yield ValueError(f"{each.name}: {error}")
            continue
        following, following_image = read[(number + 1) % len(read)]
        name, another = swapped or (following.name, following_image)
        pixels = model.module.model.encoder.transform(another)[None].to(target.pixel_values)
        others = [(name, pixels)] if another is not image else []
        yield explain(target, each.name, each.question or "", others, seed=number, progress=True)


def write_pages(
    out: Path,
    model: Captioner,
    lines: Sequence[Prediction],
    images: Callable[[Sequence[str]], Mapping[str, bytes]],
    limit: int,
    shown_by: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write a page for each of the first images in the report's gallery, and return their addresses by key.

    lines: those of predictions.jsonl. images: returns the encoded images of keys. shown_by: `item_scores` of
    the gallery. Raises ValueError if no task of the evaluation can be explained, or if an image has no picture.
    """
    tasks = {name: task for name, task in model.module.tasks.items() if _is_explained(task)}
    shown = [line for line in lines if line["task"] in tasks and line["prediction"].strip()]
    if not shown:
        raise ValueError(f"nothing that {', '.join(model.module.tasks)} predicted can be explained; set inspect=0")
    cards = [card for each in gallery(shown, shown_by=shown_by).values() for card in each]
    rows = {card.key: card.rows[0] for card in reversed(cards)}  # of an image in several tasks, that of the first
    keys = list(dict.fromkeys(card.key for card in cards))[:limit]
    encoded, pages = images(keys), dict[str, str]()
    if lost := [key for key in keys if key not in encoded]:
        raise ValueError(f"there is no picture of image {lost[0]}, which inspect explains; set inspect=0")
    for number, key in enumerate(tqdm(keys, "inspect", unit=" pages", disable=None)):
        row = rows[key]
        asked = Asked(key, encoded[key], _question(tasks[row["task"]], row["prompt"]), row["prediction"])
        other = keys[(number + 1) % len(keys)]
        (found,) = explain_all(model, [asked], row["task"], None if other == key else (other, encoded[other]))
        if isinstance(found, Exception):
            raise found
        name = f"{FOLDER}/{number}-{re.sub(r'[^A-Za-z0-9._-]', '_', key)}.html"
        write_text(out / name, render(key, [found]), errors="replace")
        pages[key] = name
    return pages


def _is_explained(task: Task) -> bool:
    try:
        check_task(task)
    except ValueError:
        return False
    return task.takes in ("image", "question") and task.reads_image


def _question(task: Task, prompt: str) -> str | None:
    """Return the question in a prompt of a task."""
    if task.takes != "question":
        return None
    before, _, after = getattr(task, "prompt", "{question}").partition("{question}")
    return prompt.removeprefix(before).removesuffix(after)
