"""Visual dialogue: several questions about an image, each with the previous questions and answers as context."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prefixvlm.batch import AssistantTurn, Row
from prefixvlm.data.sample import Question, Sample
from prefixvlm.options.ranges import Positive
from prefixvlm.task.vqa import PROMPT, Vqa


class Dialogue(Vqa):
    """Answers questions in turns: the image, then for each turn the prompt with the question, then the answer.

    The turns are the questions of a sample in order (VisDial, the conversations of LLaVA). Training supervises every
    answer of `turns` consecutive questions. An evaluation puts the `turns` - 1 previous questions with their true
    answers before each question, as VisDial does.
    separator: text between an answer and the next question. description: prompt for a caption as the first turn.
    """

    name = "dialogue"
    turn_by_turn = True

    def __init__(
        self,
        prompt: str = PROMPT,
        turns: Positive = 4,
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
        turns = questions[first : first + self.turns]
        return [self._last_turn(sample, turns, " " + rng.choice(self._answers(turns[-1])), rng)]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        questions = self._questions(sample)
        return [
            self._last_turn(sample, questions[max(0, last - self.turns + 1) : last + 1])
            for last in range(len(questions))
        ]

    def _questions(self, sample: Sample) -> tuple[Question, ...]:
        if not self.description or not sample.captions:
            return super()._questions(sample)
        return (Question(f"{sample.key}-description", self.description, tuple(sample.captions)), *sample.questions)

    def _last_turn(
        self, sample: Sample, turns: Sequence[Question], target: str = "", rng: random.Random | None = None
    ) -> Row:
        """Return the row of the last question, with the turns before it as context."""
        row = self._row(sample, turns[-1], target)
        if len(turns) == 1:
            return row
        context: list[Any] = [sample.image]
        for question in turns[:-1]:
            # In evaluation always the first answer, so that a prompt is the same each time.
            answer = rng.choice(self._answers(question)) if rng else self._answers(question)[0]
            prompt = self.prompt.replace("{question}", question.question)
            context += [prompt, AssistantTurn(" " + answer), self.separator]
        return replace(row, prompt=(row.text,), context=tuple(context))
