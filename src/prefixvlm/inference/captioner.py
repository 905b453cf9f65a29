"""A trained checkpoint in Python: captions, answers, classes, likelihoods and embeddings of images."""

import random
from collections.abc import Iterator, Sequence
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
SEPARATOR = "\n"  # after a demonstration, as in FewShot


class Captioner(Predictor):
    """A trained model for images: what `prefixvlm.load` returns.

    Images are paths, bytes, PIL images, arrays or tensors; see inference.images.to_image. A method that takes `images`
    returns one result for one image, and a list for a list. Decoding options are those of the task, as
    method="beam", num_beams=5, max_new_tokens=20, stop=["."].
    demonstrations: few-shot examples before the prompt: (image, caption), or (image, question, answer).
    """

    def caption(self, images: Any, demonstrations: Sequence[tuple[Any, ...]] = (), **decoding: Any) -> Any:
        """Return the caption of each image as a str, which a notebook shows with its image."""
        return self._texts(images, Request(), demonstrations, decoding)

    def answer(
        self, images: Any, question: str, demonstrations: Sequence[tuple[Any, ...]] = (), **decoding: Any
    ) -> Any:
        """Return the answer to a question about each image, as `caption` does."""
        return self._texts(images, Request((question,)), demonstrations, decoding)

    def generate(self, parts: Sequence[Any], **decoding: Any) -> Text:
        """Return the text that follows a prompt of images and texts: [image, "Question: ... Answer:"].

        Texts are str; images are of any other kind, paths as pathlib.Path. decoding: default to those of a caption.
        """
        prompt = [part if isinstance(part, str) else to_image(part, self.decoder) for part in parts]
        task = _decoding(self._text_task(), decoding)
        (text,) = task.generate(self.module.model, self._batch([Row(tuple(join_texts(prompt)))]))
        return Text.of(text, next((part for part in prompt if isinstance(part, Image.Image)), None))

    def stream(self, image: ImageInput, question: str | None = None, **decoding: Any) -> Iterator[str]:
        """Yield the parts of a caption or of an answer as they are generated: greedy, or method="nucleus"."""
        task, row = self._row(to_image(image, self.decoder), question)
        return stream(self.module.model, self._batch([row]), _decoding(task, decoding).decoding)

    def rank(
        self, image: ImageInput, texts: Sequence[str], question: str | None = None, normalize_length: bool = False
    ) -> list[tuple[str, float]]:
        """Return the texts as captions or answers with their log-likelihoods, the likeliest first.

        normalize_length: rank by the mean over the tokens of a text, not by their sum.
        """
        _, row = self._row(to_image(image, self.decoder), question)
        space = " " if row.text else ""
        values = likelihoods(self.module.model, self._batch([row]), texts, row.text, normalize_length, space)[0]
        return sorted(zip(texts, values.tolist(), strict=True), key=lambda pair: -pair[1])

    @torch.no_grad()
    def log_probs(self, image: ImageInput, text: str, question: str | None = None) -> list[tuple[str, float]]:
        """Return the tokens of a caption or an answer, the EOS last, each with its log-probability after the others."""
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
            return self._batch([row])
        return self._batch([replace(row, target=(" " if row.text else "") + text)], supervised=True)

    def classify(self, images: Any) -> Any:
        """Return the probability of each class by its name, the likeliest first, as a dict for each image."""
        with_classes = (each for each in self.module.tasks.values() if type(each).probabilities != Task.probabilities)
        task = next(with_classes, None)
        if task is None:
            raise ValueError(f"the checkpoint was trained for {', '.join(self.module.tasks)}; rank() takes any classes")

        def classes(batch: list[Image.Image]) -> list[dict[str, float]]:
            answers = self.answers_of(task, [("", image) for image in batch], [""])
            shares = [task.probabilities(answer.prediction) or {} for answer in answers]
            return [dict(sorted(each.items(), key=lambda pair: -pair[1])) for each in shares]

        return self._each(images, classes)

    @torch.no_grad()
    def embed(self, images: Any) -> Tensor:
        """Return the prefix of each image: float[P, E] for one, float[B, P, E] for a list."""

        def prefixes(batch: list[Image.Image]) -> list[Tensor]:
            pixels = torch.stack([self.module.model.encoder.transform(image) for image in batch])
            return list(self.module.model.prefix_embeds(pixels.to(self.module.device)).cpu())

        found = self._each(images, prefixes)
        return torch.stack(found) if isinstance(found, list) else found

    def _texts(self, images: Any, request: Request, shown: Sequence[tuple[Any, ...]], decoding: dict[str, Any]) -> Any:
        task = _decoding(self.task(request), decoding)
        context = self.context(task, shown)

        def texts(batch: list[Image.Image]) -> list[Text]:
            samples = [task.request(str(number), image, request.texts) for number, image in enumerate(batch)]
            rows = [[after(context, row) for row in task.prompt_rows(sample)] for sample in samples]
            said = [prediction.prediction for prediction in self.predict(task, rows)]
            return [Text.of(text, image, request.texts[0]) for text, image in zip(said, batch, strict=True)]

        return self._each(images, texts)

    def _each(self, images: Any, function: Any) -> Any:
        """Apply a function of a list of images in batches. Returns one result for one image."""
        several = isinstance(images, list | tuple)
        given, results = list(images) if several else [images], []
        for first in range(0, len(given), MAX_IMAGES):
            results += function([to_image(image, self.decoder) for image in given[first : first + MAX_IMAGES]])
        return results if several else results[0]

    def _row(self, image: Image.Image, question: str | None, name: str | None = None) -> tuple[Task, Row]:
        request = Request(() if question is None else (question,))
        task = self.task(request, name)
        return task, task.prompt_rows(task.request("", image, request.texts))[0]

    def context(self, task: Task, shown: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Return the images and texts of demonstrations, as FewShot puts them before a prompt."""
        parts: list[Any] = []
        for number, (image, *texts) in enumerate(shown):
            if len(texts) != (2 if task.takes == "question" else 1):
                raise ValueError(f"demonstration {number} has {len(texts)} texts; see Captioner for what is accepted")
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

    def _batch(self, rows: Sequence[Row], supervised: bool = False) -> Batch:
        return self.module.collate(rows, supervised).to(self.module.device)


def after(context: list[Any], row: Row) -> Row:
    """Return the row with demonstrations before it."""
    return replace(row, context=tuple(join_texts([*context, *row.context])))


def _decoding(task: Task, options: dict[str, Any]) -> Task:
    return task.with_decoding(**options) if options else task
