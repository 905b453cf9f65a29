"""Predictions of the tasks of a checkpoint for images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import nn

from prefixvlm.batch import Row
from prefixvlm.build import rebuild
from prefixvlm.checkpoint.hub_folder import find
from prefixvlm.checkpoint.local_parts import locate, naming_places
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.inference.images import ImageInput, to_image
from prefixvlm.inference.request import Request, check_num_images, choose_task
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from prefixvlm.training.module import PrefixModule

MAX_IMAGES = 64  # in a batch
HALF = "float16"


@dataclass(frozen=True)
class Answer:
    """The prediction for one image and one text.

    name: the path of the image, "" for one of another kind or for a text without an image.
    asked: the question, phrase or text; "" for the image alone.
    """

    name: str
    image: Image.Image
    asked: str
    prediction: Prediction


class Predictor:
    """The module of a checkpoint, with the same predictions as eval.py. Built once for any number of calls.

    device, dtype: see prefixvlm.load.
    """

    def __init__(self, checkpoint: str | os.PathLike[str], device: str = "auto", dtype: str | None = None) -> None:
        on, self.checkpoint = _device(device), find(checkpoint)
        content = load(self.checkpoint)
        config = locate(content[KEY]["config"], self.checkpoint)
        if dtype not in (None, HALF) and config.get("lm"):
            config["lm"] = {**config["lm"], "dtype": dtype}
        with naming_places(config, self.checkpoint):
            self.module = rebuild(config, content).eval()
        if dtype == HALF:
            _halve(self.module.model.lm)
        self.module.to(on)
        self.decoder = ImageDecoder.of(config.get("data") or {})

    def __repr__(self) -> str:
        tasks, lm = ", ".join(self.module.tasks), next(self.module.model.lm.parameters())
        return f"<{type(self).__name__} of {self.checkpoint}: {tasks}; {lm.dtype} on {lm.device}>"

    @classmethod
    def of(cls, module: PrefixModule, decoder: ImageDecoder, checkpoint: Path) -> Self:
        """Return the predictor of a module that is loaded already. decoder: of image files."""
        self = cls.__new__(cls)
        self.module, self.decoder, self.checkpoint = module.eval(), decoder, checkpoint
        return self

    def task(self, request: Request, name: str | None = None) -> Task:
        """Return the task that answers a request. name: name of the task, if several can."""
        return choose_task(self.module.tasks, request, name)

    def answers(self, images: Sequence[ImageInput], request: Request, name: str | None = None) -> list[Answer]:
        """Return the answers for each image in order, one for each text of the request.

        Raises ValueError if the checkpoint was not trained for the request, or if a file is not an image.
        """
        task = self.task(request, name)
        check_num_images(task, len(images))
        if not images:
            return self.answers_of(task, [("", BLACK_IMAGE)], request.texts)
        answers = []
        for first in range(0, len(images), MAX_IMAGES):
            batch = [(name_of(image), to_image(image, self.decoder)) for image in images[first : first + MAX_IMAGES]]
            answers += self.answers_of(task, batch, request.texts)
        return answers

    def answers_of(self, task: Task, images: Sequence[tuple[str, Image.Image]], texts: Sequence[str]) -> list[Answer]:
        """Return the answers of a task for images with their names."""
        if task.turn_by_turn:
            return self._dialogue(task, images, texts)
        rows = [task.prompt_rows(task.request(name, image, texts)) for name, image in images]
        asked = [(name, image, text) for name, image in images for text in texts]
        return [Answer(*each, prediction) for each, prediction in zip(asked, self.predict(task, rows), strict=True)]

    def _dialogue(self, task: Task, images: Sequence[tuple[str, Image.Image]], texts: Sequence[str]) -> list[Answer]:
        """Predict turn by turn, with the previous texts and their predicted answers as context."""
        turns: list[list[Prediction]] = []
        for number in range(1, len(texts) + 1):
            rows = []
            for place, (name, image) in enumerate(images):
                given = [turn[place].prediction for turn in turns]
                rows.append(task.prompt_rows(task.request(name, image, texts[:number], given))[-1:])
            turns.append(self.predict(task, rows))
        return [
            Answer(name, image, text, turn[place])
            for place, (name, image) in enumerate(images)
            for text, turn in zip(texts, turns, strict=True)
        ]

    def predict(self, task: Task, rows_of_images: Sequence[Sequence[Row]]) -> list[Prediction]:
        """Return one prediction per id, in order. The rows of an ensemble of prompts have the same id."""
        # The index of the image makes the ids unique if a file is given twice.
        rows = [replace(row, id=f"{place} {row.id}") for place, rows in enumerate(rows_of_images) for row in rows]
        batch = self.module.collate(rows, False, task.name).to(self.module.device)
        predictions = {prediction.id: prediction for prediction in task.predict(self.module.model, batch)}
        return [predictions[id] for id in dict.fromkeys(row.id for row in rows)]


def name_of(image: ImageInput) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else ""


def _device(name: str) -> torch.device:
    accepted = f"device is {name!r}; give auto, cpu, cuda, cuda:1 or mps"
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ValueError(accepted) from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {name!r}, and torch finds {torch.cuda.device_count()} CUDA devices; give auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"device is {name!r}, and torch finds none; give auto")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(accepted)
    return device


def _halve(lm: nn.Module) -> None:
    # Not at loading: small weights of bfloat16 are 0 in float16, and the checkpoint would not know its language model.
    for parameter in lm.parameters():
        if parameter.is_floating_point() and not parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float16)
