"""Visual question answering: an image and a question go in, an answer comes out; scored against the true answers."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from prefixvlm.batch import Batch, Row
from prefixvlm.data.collate import continuation_ids
from prefixvlm.data.sample import Question, Sample
from prefixvlm.metrics.vqa_accuracy import EXACT_MATCH, vqa_accuracy
from prefixvlm.model.decoding import score_answers
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import MAX_ROWS, Prediction, Task


class Vqa(Task):
    """The image, then the prompt with the question in it, then the answer (Frozen, BLIP-2).

    questions_per_image: how many of an image's questions a training step takes, drawn at random.
    answers: a closed list; each answer is then the likeliest of the list (its EOS included), not generated.
    normalize_length: rank by the mean over an answer's tokens, not by the sum.
    """

    name = "vqa"
    variant = EXACT_MATCH
    main_score = "accuracy"

    def __init__(
        self,
        prompt: str = "Question: {question} Answer:",
        questions_per_image: int = 2,
        answers: Sequence[str] | None = None,
        normalize_length: bool = False,
        decoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__({"max_new_tokens": 8, **(decoding or {})})
        if "{question}" not in prompt:
            raise ValueError(f"task.vqa.prompt is {prompt!r}; it needs {{question}} where the question goes")
        self.prompt = prompt
        self.questions_per_image = questions_per_image
        self.answers = list(answers) if answers is not None else None
        self.normalize_length = normalize_length
        if self.answers is not None:
            self.decoding = {"method": "ranking", "answers": len(self.answers), "normalize_length": normalize_length}

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        questions = self._questions(sample)
        chosen = rng.sample(questions, min(self.questions_per_image, len(questions)))
        return [self._row(sample, question, " " + rng.choice(question.answers)) for question in chosen]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        return [self._row(sample, question) for question in self._questions(sample)]

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return vqa_accuracy([prediction], [references]).overall / 100

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Accuracy in percent, over all and by the first word of the question."""
        groups = {"accuracy": list(predictions), **self._by_first_word(predictions)}
        return {name: 100 * sum(p.correct for p in group) / len(group) for name, group in groups.items()}

    def counts(self, predictions: Sequence[Prediction]) -> dict[str, int]:
        return {name: len(group) for name, group in self._by_first_word(predictions).items()}

    def _by_first_word(self, predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
        groups: dict[str, list[Prediction]] = {}
        for p in predictions:
            first_word = self.question_of(p.prompt).split(maxsplit=1)[0].lower()
            groups.setdefault(f"accuracy_{first_word}", []).append(p)
        return dict(sorted(groups.items()))

    def question_of(self, prompt: str) -> str:
        """The question in a row's prompt."""
        before, after = self.prompt.split("{question}", 1)
        return prompt.removeprefix(before).removesuffix(after)

    def generate(self, model: PrefixLM, batch: Batch) -> list[str]:
        if self.answers is None:
            return super().generate(model, batch)
        end = self.prompt.split("{question}", 1)[1]
        ids = [continuation_ids(model.lm.tokenizer, end, " " + answer) for answer in self.answers]
        parts = batch.split(max(1, MAX_ROWS // len(ids)))
        best = torch.cat([score_answers(model, part, ids, self.normalize_length).argmax(1) for part in parts])
        return [self.answers[i] for i in best.tolist()]

    def _row(self, sample: Sample, question: Question, target: str = "") -> Row:
        prompt = self.prompt.replace("{question}", question.question)
        return Row((sample.image, prompt), target, sample.key, question.id, tuple(question.answers))

    def _questions(self, sample: Sample) -> tuple[Question, ...]:
        if not sample.questions:
            raise ValueError(f"sample {sample.key!r} has no question, which task vqa needs; choose task=captioning")
        return tuple(sample.questions)
