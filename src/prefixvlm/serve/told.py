"""A task's prediction goes in; what a person reads of it, and a picture with its boxes, come out."""

from collections.abc import Sequence
from functools import singledispatch
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

from prefixvlm.data.schema import Box
from prefixvlm.serve.predictor import Answer
from prefixvlm.task.classification_head import ClassificationHead
from prefixvlm.task.detection import Detection
from prefixvlm.task.grounding import Grounding
from prefixvlm.task.interface import Task
from prefixvlm.task.results.boxes import parse_boxes
from prefixvlm.task.tagging import Tagging

COLOURS = ("#d6006c", "#2457c5", "#00796b", "#c2410c", "#7e22ce")
Found = list[tuple[Box, float]]  # boxes, and how sure each is


@singledispatch
def told(task: Task, answer: Answer) -> str:
    """One line: the text itself, of a regression the number."""
    return " ".join(answer.prediction.prediction.splitlines())


@told.register
def _(task: ClassificationHead, answer: Answer) -> str:
    """ "circle 0.912": its probability; with multi_label all from a half on."""
    outputs = torch.tensor(answer.prediction.values)
    if not task.multi_label:
        return f"{answer.prediction.prediction} {outputs.softmax(0).max():.3f}"
    sure = zip(task.classes, outputs.sigmoid().tolist(), outputs.tolist(), strict=True)
    return ", ".join(f"{name} {share:.3f}" for name, share, output in sure if output >= 0) or "(none)"


@told.register
def _(task: Tagging, answer: Answer) -> str:
    """ "a red/B-SEEN circle/I-SEEN": each word with its tag, but for O."""
    pairs = zip(answer.asked.split(), answer.prediction.prediction.split(), strict=True)
    return " ".join(word if tag == "O" else f"{word}/{tag}" for word, tag in pairs)


@told.register(Detection)
@told.register(Grounding)
def _(task: Task, answer: Answer) -> str:
    """ "circle 12 40 60 88 0.93; ...": left, top, right and bottom in pixels; of detection label and confidence too."""
    found = boxes(task, answer)
    sure = [f" {share:.2f}" if isinstance(task, Detection) else "" for _, share in found]
    texts = [" ".join([*box.label.split(), *map(str, _pixels(box, answer.image))]) for box, _ in found]
    return "; ".join(text + share for text, share in zip(texts, sure, strict=True)) or "(nothing)"


def boxes(task: Task, answer: Answer) -> Found:
    """Raises ValueError for a task that finds none."""
    if not isinstance(task, Detection | Grounding):
        raise ValueError(f"--out draws the boxes of detection and grounding; task {task.name} has none")
    return parse_boxes(answer.prediction.prediction, confidences=isinstance(task, Detection))


def draw(task: Task, answers: Sequence[Answer], out: Path) -> None:
    """One image with all boxes that were found in it, each with its label or phrase."""
    found = [(box.label or answer.asked, box) for answer in answers for box, _ in boxes(task, answer)]
    image = answers[0].image.copy()
    pen = ImageDraw.Draw(image)
    width = max(1, max(image.size) // 200)
    font = ImageFont.load_default(max(8, max(image.size) // 30))
    colours = dict.fromkeys(label for label, _ in found)
    for place, label in enumerate(colours):
        colours[label] = COLOURS[place % len(COLOURS)]
    for label, box in found:
        left, top, right, bottom = _pixels(box, image)
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colours[label], width=width)
        pen.text((left + 2 * width, top + width), label, fill=colours[label], font=font)
    image.save(out)


def _pixels(box: Box, image: Image.Image) -> list[int]:
    return [round(edge * size) for edge, size in zip(box.edges, image.size * 2, strict=True)]
