"""Image files and what is asked about them go in, a checkpoint's predictions come out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import OmegaConf
from PIL import Image

from prefixvlm.batch import Row
from prefixvlm.build import rebuild
from prefixvlm.data.sample import BLACK_IMAGE, Sample, decode_image
from prefixvlm.data.schema import Question
from prefixvlm.serve.asked import Asked, check_images, chosen
from prefixvlm.task.dialogue import Dialogue
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction
from prefixvlm.training.checkpoint import KEY, load

MAX_IMAGES = 64  # that are read at once


@dataclass(frozen=True)
class Answer:
    """path: None where a text was read without an image. asked: the question, phrase or text, if there was one."""

    path: Path | None
    image: Image.Image
    asked: str
    prediction: Prediction


class Predictor:
    """A checkpoint, rebuilt once, for any number of calls. It says what eval.py says of the same image."""

    def __init__(self, checkpoint: str | Path) -> None:
        loaded = load(checkpoint)
        self.module = module = rebuild(OmegaConf.create(loaded[KEY]["config"]), loaded).eval()
        for task in module.tasks.values():
            task.needs_references = False

    def __call__(self, images: Sequence[Path], question: str | None = None) -> list[str]:
        """A caption or an answer for each image; raises ValueError as `answers` does."""
        asked = Asked(() if question is None else (question,))
        return [answer.prediction.prediction for answer in self.answers(images, asked)]

    def task(self, asked: Asked, name: str | None = None) -> Task:
        """The task that takes what is asked. name: which, where several do."""
        return chosen(self.module.tasks, asked, name)

    def answers(self, images: Sequence[Path], asked: Asked, name: str | None = None) -> list[Answer]:
        """For each image what is said to each that was asked, in order.

        Raises ValueError if the checkpoint was not trained for it, or for a file that is no image.
        """
        task = self.task(asked, name)
        check_images(task, len(images))
        if not images:
            return self._of(task, [(None, BLACK_IMAGE)], asked)
        found = []
        for first in range(0, len(images), MAX_IMAGES):
            some = images[first : first + MAX_IMAGES]
            found += self._of(task, [(path, _image(path)) for path in some], asked)
        return found

    def _of(self, task: Task, images: Sequence[tuple[Path | None, Image.Image]], asked: Asked) -> list[Answer]:
        if isinstance(task, Dialogue):
            return self._dialogue(task, images, asked.questions)
        rows = [task.prompt_rows(asked.sample(str(path), image)) for path, image in images]
        of = [(path, image, text) for path, image in images for text in asked.texts]
        return [Answer(*each, said) for each, said in zip(of, self._said(task, rows), strict=True)]

    def _dialogue(
        self, task: Dialogue, images: Sequence[tuple[Path | None, Image.Image]], questions: Sequence[str]
    ) -> list[Answer]:
        """Each question after what was said to those before it."""
        turns: list[list[Answer]] = []
        for number, question in enumerate(questions):
            rows = []
            for place, (path, image) in enumerate(images):
                before = [Question(str(n), turn[place].asked, (turn[place].prediction.prediction,))
                          for n, turn in enumerate(turns)]  # fmt: skip
                sample = Sample(str(path), image, questions=(*before, Question(str(number), question)))
                rows.append(task.prompt_rows(sample)[-1:])
            said = self._said(task, rows)
            turns.append([Answer(*of, question, each) for of, each in zip(images, said, strict=True)])
        return [turn[place] for place in range(len(images)) for turn in turns]

    def _said(self, task: Task, rows_of_images: Sequence[Sequence[Row]]) -> list[Prediction]:
        """In the order of the rows, whichever of them read alike; one for rows of one id, as an ensemble's are."""
        rows = [replace(row, id=f"{place} {row.id}") for place, rows in enumerate(rows_of_images) for row in rows]
        batch = self.module.test_collates[task.name].collate(rows, False, task.name).to(self.module.device)
        found = {prediction.id: prediction for prediction in task.predict(self.module.model, batch)}
        return [found[id] for id in dict.fromkeys(row.id for row in rows)]


def _image(path: Path) -> Image.Image:
    try:
        return decode_image(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
