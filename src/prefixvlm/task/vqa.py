"""Visual question answering, scored against human answers."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Question, Sample
from prefixvlm.metrics.score_kind import PERCENT
from prefixvlm.metrics.vqa.answer_metrics import answer_metric, check_several
from prefixvlm.metrics.vqa.vizwiz import average_precision
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Positive
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, group_names
from prefixvlm.task.rows.closed_set import ClosedSetAnswers, likelihoods

PROMPT = "Question: {question} Answer:"
UNANSWERABLE = "unanswerable"


class Vqa(Task):
    """Answers questions: the image, then the prompt with the question in it, then the answer (Frozen, BLIP-2).

    questions_per_image: number of questions of an image that a training step uses, drawn at random.
    metric: name of the answer metric in metrics/vqa/answer_metrics.py.
    answers: None to generate the answer; a list, a text file or "choices" to choose it, by the method `choose`. See
        ClosedSetAnswers for these and normalize_length.
    answerability: also score the likelihood of "unanswerable" by average precision (VizWiz).
    """

    name = "vqa"
    main_score = "accuracy"
    score_kinds = {"accuracy": PERCENT, "answerability_ap": PERCENT}  # noqa: RUF012
    takes = "question"

    def __init__(
        self,
        prompt: str = PROMPT,
        questions_per_image: Positive = 1,
        metric: str = "exact_match",
        answers: Sequence[str] | str | None = None,
        choose: str = "ranking",
        normalize_length: bool = False,
        answerability: bool = False,
        decoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__({"max_new_tokens": 8, **(decoding or {})})
        if "{question}" not in prompt:
            raise ValueError(f"task.{self.name}.prompt is {prompt!r}; it needs {{question}} where the question goes")
        self.prompt, self.questions_per_image, self.answerability = prompt, questions_per_image, answerability
        self.metric = answer_metric(metric)
        self.variant = self.metric.variant
        self.end = prompt.split("{question}", 1)[1]
        self.closed_set: ClosedSetAnswers | None = None
        if answers is not None:
            self.closed_set = ClosedSetAnswers(answers, choose, normalize_length, self.end, f"task.{self.name}")
            self.decoding = self.closed_set.decoding

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        questions = self._questions(sample)
        chosen = rng.sample(questions, min(self.questions_per_image, len(questions)))
        return [self._row(sample, question, " " + rng.choice(self._answers(question))) for question in chosen]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        return [self._row(sample, question) for question in self._questions(sample)]

    def check_references(self, sample: Sample) -> None:
        for question in self._questions(sample):
            self._answers(question)

    def request(self, key: str, image: Any, texts: Sequence[str] = (), answers: Sequence[str] = ()) -> Sample:
        questions = [Question(str(number), text) for number, text in enumerate(texts)]
        answered = [replace(question, answers=(answer,)) for question, answer in zip(questions, answers, strict=False)]
        return Sample(key, image, questions=(*answered, *questions[len(answered) :]))

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        check_several(self.metric, references)
        return self.metric.score(prediction, references)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return accuracy, also by group, and with answerability average precision, in percent."""
        scores = super().scores(predictions)
        if self.answerability:
            labels = np.array(["answerable_no" in p.groups for p in predictions])  # the official positives
            values = np.array([p.values[0] for p in predictions if p.values])
            if labels.any():
                scores |= corpus_score(predictions, lambda draw: _average_precision(labels[draw], values[draw]))
        return scores

    def generate(self, model: PrefixLM, batch: Batch) -> list[str]:
        return self.closed_set(model, batch) if self.closed_set else super().generate(model, batch)

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """Return predictions. values: with answerability, the log-likelihood of "unanswerable"."""
        predictions = super().predict(model, batch)
        if not self.answerability:
            return predictions
        likelihood = likelihoods(model, batch, [UNANSWERABLE], self.end)[:, 0]
        values = [[float(value)] for rows, value in zip(batch.rows, likelihood, strict=True) for _ in rows]
        return [replace(p, values=value) for p, value in zip(predictions, values, strict=True)]

    def _row(self, sample: Sample, question: Question, target: str = "") -> Row:
        # Not str.format, which would fail on other braces in the prompt.
        prompt = self.prompt.replace("{question}", question.question)
        answerable = {"answerable": sample.labels["answerable"]} if "answerable" in sample.labels else {}
        groups = group_names({**question.groups, **answerable}) or (question.question.split(maxsplit=1)[0].lower(),)
        return Row((sample.image, prompt), target, sample.key, question.id, question.answers, question.choices, groups)

    def _questions(self, sample: Sample) -> tuple[Question, ...]:
        if not sample.questions:
            raise ValueError(f"sample {sample.key!r} has no question, which task vqa needs; choose task=captioning")
        return sample.questions

    def _answers(self, question: Question) -> tuple[str, ...]:
        if not question.answers:
            raise ValueError(f"question {question.id!r} has no answer to train on or to score by; set submission=FILE")
        return question.answers


def _average_precision(labels: NDArray[Any], values: NDArray[Any]) -> dict[str, float]:
    """Return average precision in percent; NaN for a bootstrap sample without positives."""
    return {
        "answerability_ap": 100 * average_precision(labels.tolist(), values.tolist()) if labels.any() else float("nan")
    }
