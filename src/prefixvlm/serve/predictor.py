"""Predictions of a checkpoint for image files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from prefixvlm.batch import Row
from prefixvlm.build import rebuild
from prefixvlm.data.image import ImageDecoder, read_image
from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.serve.request import Request, check_num_images, choose_task
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load

MAX_IMAGES = 64  # in a batch


@dataclass(frozen=True)
class Answer:
    """The prediction for one image and one text.

    path: None for a text without an image. asked: the question, phrase or text; "" for the image alone.
    """

    path: Path | None
    image: Image.Image
    asked: str
    prediction: Prediction


class Predictor:
    """The module of a checkpoint, with the same predictions as eval.py. Built once for any number of calls."""

    def __init__(self, checkpoint: str | Path) -> None:
        content = load(checkpoint)
        self.module = rebuild(content[KEY]["config"], content).eval()
        self.decoder = ImageDecoder.of(content[KEY]["config"].get("data") or {})

    def __call__(self, images: Sequence[Path], question: str | None = None) -> list[str]:
        """Return a caption or an answer for each image. Raises ValueError as `answers` does."""
        request = Request(() if question is None else (question,))
        return [answer.prediction.prediction for answer in self.answers(images, request)]

    def task(self, request: Request, name: str | None = None) -> Task:
        """Return the task that answers a request. name: name of the task, if several can."""
        return choose_task(self.module.tasks, request, name)

    def answers(self, images: Sequence[Path], request: Request, name: str | None = None) -> list[Answer]:
        """Return the answers for each image in order, one for each text of the request.

        Raises ValueError if the checkpoint was not trained for the request, or if a file is not an image.
        """
        task = self.task(request, name)
        check_num_images(task, len(images))
        if not images:
            return self._answers(task, [(None, BLACK_IMAGE)], request.texts)
        answers = []
        for first in range(0, len(images), MAX_IMAGES):
            batch = [(path, self._read_image(path)) for path in images[first : first + MAX_IMAGES]]
            answers += self._answers(task, batch, request.texts)
        return answers

    def _read_image(self, path: Path) -> Image.Image:
        data = read_image(path)
        try:
            return self.decoder(data)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def _answers(
        self, task: Task, images: Sequence[tuple[Path | None, Image.Image]], texts: Sequence[str]
    ) -> list[Answer]:
        if task.turn_by_turn:
            return self._dialogue(task, images, texts)
        rows = [task.prompt_rows(task.request(str(path), image, texts)) for path, image in images]
        asked = [(path, image, text) for path, image in images for text in texts]
        return [Answer(*each, prediction) for each, prediction in zip(asked, self._predict(task, rows), strict=True)]

    def _dialogue(
        self, task: Task, images: Sequence[tuple[Path | None, Image.Image]], texts: Sequence[str]
    ) -> list[Answer]:
        """Predict turn by turn, with the previous texts and their predicted answers as context."""
        turns: list[list[Prediction]] = []
        for number in range(1, len(texts) + 1):
            rows = []
            for place, (path, image) in enumerate(images):
                given = [turn[place].prediction for turn in turns]
                rows.append(task.prompt_rows(task.request(str(path), image, texts[:number], given))[-1:])
            turns.append(self._predict(task, rows))
        return [
            Answer(path, image, text, turn[place])
            for place, (path, image) in enumerate(images)
            for text, turn in zip(texts, turns, strict=True)
        ]

    def _predict(self, task: Task, rows_of_images: Sequence[Sequence[Row]]) -> list[Prediction]:
        """Return one prediction per id, in order. The rows of an ensemble of prompts have the same id."""
        # The index of the image makes the ids unique if a file is given twice.
        rows = [replace(row, id=f"{place} {row.id}") for place, rows in enumerate(rows_of_images) for row in rows]
        batch = self.module.collate(rows, False, task.name).to(self.module.device)
        predictions = {prediction.id: prediction for prediction in task.predict(self.module.model, batch)}
        return [predictions[id] for id in dict.fromkeys(row.id for row in rows)]
