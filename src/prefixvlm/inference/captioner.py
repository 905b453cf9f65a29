"""A trained checkpoint in Python: captions, answers, classes, likelihoods and embeddings of images."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Question, Sample
from prefixvlm.inference.images import ImageInput, to_image
from prefixvlm.inference.predictor import MAX_IMAGES, Predictor
from prefixvlm.inference.request import Request
from prefixvlm.inference.text import Text
from prefixvlm.model.generation import stream
from prefixvlm.task.interface import Task
from prefixvlm.task.rows.closed_set import likelihoods
from prefixvlm.task.rows.few_shot import join_texts

R = TypeVar("R")
Shown = Sequence[tuple[Any, ...]]  # demonstrations
SEPARATOR = "\n"  # after a demonstration, as in FewShot


class Captioner(Predictor):
    """A trained model for images: what `prefixvlm.load` returns.

    Images are paths, bytes, PIL images, arrays or tensors; see inference.images.to_image. A method that takes `images`
    returns one result for one image, and a list for a list. Decoding options are those of the task, as
    method="beam", num_beams=5, max_new_tokens=20, stop=["."].
    demonstrations: few-shot examples before the prompt: (image, caption), or (image, question, answer).
    """

    def caption(self, images: Any, demonstrations: Shown = (), **decoding: Any) -> Any:
        """Return the caption of each image as a str, which a notebook shows with its image."""
        return self._texts(images, None, demonstrations, decoding)

    def answer(self, images: Any, question: str | Sequence[str], demonstrations: Shown = (), **decoding: Any) -> Any:
        """Return the answer to a question about each image; a list has one for each image, or is about one image."""
        return self._texts(images, question, demonstrations, decoding)

    def generate(self, parts: Sequence[Any], **decoding: Any) -> Text:
        """Return the text that follows a prompt of images and texts: [image, "Question: ... Answer:"].

        Texts are str; images are of any other kind, paths as pathlib.Path. decoding: default to those of a caption.
        """
        given = [parts] if isinstance(parts, str) else parts
        prompt = [part if isinstance(part, str) else to_image(part, self.decoder) for part in given]
        if not any(prompt):
            raise ValueError("a prompt is empty; give images and texts")
        task = self._text_task().with_decoding(**decoding)
        (text,) = task.generate(self.module.model, self.batch([Row(tuple(join_texts(prompt)))]))
        return Text.of(text, [part for part in prompt if isinstance(part, Image.Image)])

    def stream(self, image: ImageInput, question: str | None = None, **decoding: Any) -> Iterator[str]:
        """Yield the parts of a caption or of an answer as they are generated: greedy, or method="nucleus"."""
        task, row = self._row(to_image(image, self.decoder), question)
        return stream(self.module.model, self.batch([row]), task.with_decoding(**decoding).decoding)

    def rank(
        self, image: ImageInput, texts: Sequence[str], question: str | None = None, normalize_length: bool = False
    ) -> list[tuple[str, float]]:
        """Return the texts as captions or answers with their log-likelihoods, the likeliest first.

        normalize_length: rank by the mean over the tokens of a text, not by their sum.
        """
        if isinstance(texts, str) or not texts or not all(text.strip() for text in texts):
            raise ValueError(f"the texts to rank are {texts!r}; give a list of texts with words")
        _, row = self._row(to_image(image, self.decoder), question)
        space = " " if row.text else ""
        values = likelihoods(self.module.model, self.batch([row]), texts, row.text, normalize_length, space)[0]
        return sorted(zip(texts, values.tolist(), strict=True), key=lambda pair: -pair[1])

    @torch.no_grad()
    def log_probs(self, image: ImageInput, text: str, question: str | None = None) -> list[tuple[str, float]]:
        """Return the tokens of a caption or an answer, the EOS last, each with its log-probability after the others."""
        if not text.strip():
            raise ValueError("the text has no words; give a caption or an answer")
        model, batch = self.module.model, self.batch_of(image, question, text)
        ids = batch.labels[batch.labels >= 0].tolist()
        tokens = model.lm.tokenizer.batch_decode([[token] for token in ids])
        return list(zip(tokens, (-model(batch)).tolist(), strict=True))

    def batch_of(
        self, image: ImageInput, question: str | None = None, text: str | None = None, task: str | None = None
    ) -> Batch:
        """Return the row of a request; with a text, as the caption or answer that is supervised. task: its name."""
        _, row = self._row(to_image(image, self.decoder), question, task)
        if text is None:
            return self.batch([row])
        return self.batch([replace(row, target=(" " if row.text else "") + text)], supervised=True)

    def classify(self, images: Any) -> Any:
        """Return the probability of each class by its name, the likeliest first, as a dict for each image."""
        tasks = [task for task in self.module.tasks.values() if type(task).probabilities != Task.probabilities]
        if not tasks:
            raise ValueError(f"the checkpoint was trained for {', '.join(self.module.tasks)}; rank() takes any classes")
        task = tasks[0]

        def classes(batch: list[Image.Image], first: int) -> list[dict[str, float]]:
            answers = self.answers_of(task, [("", image) for image in batch], [""])
            shares = [task.probabilities(answer.prediction) or {} for answer in answers]
            return [dict(sorted(each.items(), key=lambda pair: -pair[1])) for each in shares]

        return self._each(images, classes)

    @torch.no_grad()
    def embed(self, images: Any) -> Tensor:
        """Return the prefix of each image: float[P, E] for one, float[B, P, E] for a list."""
        model = self.module.model

        def prefixes(batch: list[Image.Image], first: int) -> list[Tensor]:
            pixels = torch.stack([model.encoder.transform(image) for image in batch])
            return list(model.prefix_embeds(pixels.to(self.module.device)).cpu())

        found = self._each(images, prefixes)
        if isinstance(found, list):
            return torch.stack(found) if found else torch.empty(0, model.mapper.prefix_length, model.lm.width)
        return found

    def _texts(self, images: Any, question: str | Sequence[str] | None, shown: Shown, decoding: dict[str, Any]) -> Any:
        request = Request((question,) if isinstance(question, str) else tuple(question or ()))
        task = self.task(request).with_decoding(**decoding)
        context, texts = self.context(task, shown), request.texts
        if question is not None and not isinstance(question, str):
            images = images if _is_list(images) else [images] * len(texts)
            if len(images) != len(texts):
                raise ValueError(f"there are {len(texts)} questions and {len(images)} images; give one for each image")

        def answers(batch: list[Image.Image], first: int) -> list[Text]:
            questions = texts * len(batch) if len(texts) == 1 else texts[first : first + len(batch)]
            given = enumerate(zip(batch, questions, strict=True))
            samples = [task.request(str(number), image, (text,)) for number, (image, text) in given]
            rows = [[after(context, row) for row in task.prompt_rows(sample)] for sample in samples]
            said = [prediction.prediction for prediction in self.predict(task, rows)]
            return [Text.of(text, [image], asked) for text, image, asked in zip(said, batch, questions, strict=True)]

        return self._each(images, answers)

    def _each(self, images: Any, function: Callable[[list[Image.Image], int], list[R]]) -> Any:
        """Apply a function of a list of images and the place of the first, in batches. One result for one image."""
        if not _is_list(images):
            return function([to_image(images, self.decoder)], 0)[0]
        results: list[R] = []
        for first in range(0, len(images), MAX_IMAGES):
            batch = enumerate(images[first : first + MAX_IMAGES], first)
            results += function([self._image_of_list(*each) for each in batch], first)
        return results

    def _image_of_list(self, number: int, image: Any) -> Image.Image:
        try:
            return to_image(image, self.decoder)
        except ValueError as error:
            raise ValueError(f"images[{number}]: {error}") from error

    def _row(self, image: Image.Image, question: str | None, name: str | None = None) -> tuple[Task, Row]:
        request = Request(() if question is None else (question,))
        task = self.task(request, name)
        return task, task.prompt_rows(task.request("", image, request.texts))[0]

    def context(self, task: Task, shown: Shown) -> list[Any]:
        """Return the images and texts of demonstrations, as FewShot puts them before a prompt."""
        parts: list[Any] = []
        accepted = ("image", "question", "answer") if task.takes == "question" else ("image", "caption")
        for number, example in enumerate(shown):
            if not _is_list(example) or len(example) != len(accepted):
                raise ValueError(f"demonstrations[{number}] is not ({', '.join(accepted)}); give a list of these")
            image, *texts = example
            questions = (Question("", texts[0], (texts[-1],)),) if task.takes == "question" else ()
            sample = Sample(str(number), to_image(image, self.decoder), (texts[-1],), questions)
            row = task.training_rows(sample, random.Random(0))[0]
            parts += [*row.prompt, row.target + SEPARATOR]
        return join_texts(parts)

    def _text_task(self) -> Task:
        tasks = [task for task in self.module.tasks.values() if not task.has_head]
        if not tasks:
            raise ValueError(f"the checkpoint was trained for {', '.join(self.module.tasks)}, and generates no text")
        return next((task for task in tasks if task.takes == "image"), tasks[0])

    def batch(self, rows: Sequence[Row], supervised: bool = False) -> Batch:
        """Return the batch of rows, on the device of the model. supervised: with their targets, of any length."""
        collate = copy.copy(self.module.collate)
        collate.max_target_length = None  # a limit of training; a generated text may be longer
        return collate(rows, supervised).to(self.module.device)


def after(context: list[Any], row: Row) -> Row:
    """Return the row with demonstrations before it."""
    return replace(row, context=tuple(join_texts([*context, *row.context])))


def _is_list(images: Any) -> bool:
    return isinstance(images, list | tuple)
