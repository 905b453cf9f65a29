"""Explanations of several images, and the pages of an evaluation."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from prefixvlm.atomic import write_text
from prefixvlm.inference.captioner import Captioner
from prefixvlm.inference.images import ImageInput, to_image
from prefixvlm.inspect.explanation import Explanation, explain
from prefixvlm.inspect.page import render
from prefixvlm.inspect.target import check_task, target_of
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
) -> Iterator[Explanation]:
    """Yield the explanation of each image.

    task: name of the task, if several fit. other: name and image of the prefix that takes the place of each; by default
    that of the next image.
    """
    images = [to_image(each.image, model.decoder) for each in asked]  # a bad one is an error before minutes of work
    named = [(each.name, image) for each, image in zip(asked, images, strict=True)]
    swapped = [(other[0], to_image(other[1], model.decoder))] * len(asked) if other else [*named[1:], *named[:1]]
    for number, each in enumerate(asked):
        target = target_of(model, images[number], each.question, each.text, task)
        name, image = swapped[number]
        is_other = image is not images[number]
        pixels = model.module.model.encoder.transform(image)[None].to(target.pixel_values)
        yield explain(
            target, each.name, each.question or "", [(name, pixels)] if is_other else [], seed=number, progress=True
        )


def write_pages(
    out: Path,
    model: Captioner,
    lines: Sequence[Prediction],
    images: Callable[[Sequence[str]], Mapping[str, bytes]],
    limit: int,
) -> dict[str, str]:
    """Write a page for each of the first images in the report's gallery, and return their addresses by key.

    lines: those of predictions.jsonl. images: returns the encoded images of keys. Raises ValueError if no task of the
    evaluation can be explained.
    """
    tasks = {name: task for name, task in model.module.tasks.items() if _is_explained(task)}
    shown = [line for line in lines if line["task"] in tasks and line["prediction"].strip()]
    if not shown:
        raise ValueError(f"nothing that {', '.join(model.module.tasks)} predicted can be explained; set inspect=0")
    cards = [card for each in gallery(shown).values() for card in each]
    rows = {card.key: card.rows[0] for card in reversed(cards)}  # of an image in several tasks, that of the first
    keys = list(dict.fromkeys(card.key for card in cards))[:limit]
    encoded, pages = images(keys), dict[str, str]()
    for number, key in enumerate(tqdm(keys, "inspect", unit=" pages", disable=None)):
        row = rows[key]
        asked = Asked(key, encoded[key], _question(tasks[row["task"]], row["prompt"]), row["prediction"])
        other = keys[(number + 1) % len(keys)]
        (found,) = explain_all(model, [asked], row["task"], None if other == key else (other, encoded[other]))
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
