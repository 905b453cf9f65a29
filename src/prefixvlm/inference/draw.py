"""Drawing predicted boxes on an image."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from prefixvlm.atomic import replacing_file
from prefixvlm.inference.predictor import Answer
from prefixvlm.task.interface import Task

COLOURS = ("#d6006c", "#2457c5", "#00796b", "#c2410c", "#7e22ce")


def draw_boxes(task: Task, answers: Sequence[Answer], out: Path) -> None:
    """Save the image with the boxes of all answers, each with its label or phrase, to a new or replaced file.

    Raises ValueError for a task without boxes.
    """
    labelled = []
    for answer in answers:
        boxes = task.boxes(answer.prediction)
        if boxes is None:
            raise ValueError(f"--out draws boxes, and task {task.name} predicts none; leave it out")
        labelled += [(box.label or answer.asked, box) for box, _ in boxes]
    image = answers[0].image.copy()
    pen = ImageDraw.Draw(image)
    width = max(1, max(image.size) // 200)
    font = ImageFont.load_default(max(8, max(image.size) // 30))
    labels = dict.fromkeys(label for label, _ in labelled)
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(labels)}
    for label, box in labelled:
        left, top, right, bottom = (round(edge * size) for edge, size in zip(box.edges, image.size * 2, strict=True))
        # Edges lie between pixels, but a rectangle of Pillow includes its last row and column.
        pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colours[label], width=width)
        pen.text((left + 2 * width, top + width), label, fill=colours[label], font=font)
    with replacing_file(out) as file:
        image.save(file, Image.registered_extensions()[out.suffix.lower()])
