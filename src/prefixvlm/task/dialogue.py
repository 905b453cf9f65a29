"""Dialogue: an image and several turns of questions and answers go in, each turn's answer comes out."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefixvlm.batch import AssistantTurn, Row
from prefixvlm.data.sample import Question, Sample
from prefixvlm.task.vqa import Vqa


class Dialogue(Vqa):
    """The image, then turns: each the prompt with a question in it, then its answer (VisDial, LLaVA's conversations).

    The turns are a sample's questions in their order. Training supervises every answer of `turns` of them in a row; an
    evaluation asks each after the true answers of the `turns` - 1 before it, as VisDial does.
    separator: between an answer and the next question. description: what asks for a caption, as the first turn.
    """

    name = "dialogue"

    def __init__(
        self,
        prompt: str = "Question: {question} Answer:",
        turns: int = 4,
        separator: str = "\n",
        description: str | None = None,
        metric: str = "exact_match",
        decoding: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(prompt, metric=metric, decoding=decoding)
        if turns < 1:
            raise ValueError(f"task.dialogue.turns is {turns}; set it to 1 or more")
        self.turns, self.separator, self.description = turns, separator, description

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        questions = self._questions(sample)
        first = rng.randrange(max(1, len(questions) - self.turns + 1))
        asked = questions[first : first + self.turns]
        return [self._turn(sample, asked, " " + rng.choice(self._answers(asked[-1])), rng)]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        questions = self._questions(sample)
        if self.needs_references:
            for question in questions:
                self._answers(question)
        return [
            self._turn(sample, questions[max(0, last - self.turns + 1) : last + 1]) for last in range(len(questions))
        ]

    def _questions(self, sample: Sample) -> tuple[Question, ...]:
        if not self.description or not sample.captions:
            return super()._questions(sample)
        return (Question(f"{sample.key}-description", self.description, tuple(sample.captions)), *sample.questions)

    def _turn(
        self, sample: Sample, asked: Sequence[Question], target: str = "", rng: random.Random | None = None
    ) -> Row:
        """The last question, after the turns before it."""
        row = self._row(sample, asked[-1], target)
        if len(asked) == 1:
            return row
        context: list[Any] = [sample.image]
        for question in asked[:-1]:
            answer = rng.choice(self._answers(question)) if rng else self._answers(question)[0]
            context += [
                self.prompt.replace("{question}", question.question),
                AssistantTurn(" " + answer),
                self.separator,
            ]
        return replace(row, prompt=(row.text,), context=tuple(context))
