"""Answers from a closed set, by ranking their likelihoods or by constrained decoding."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.data.tokenization import text_ids
from prefixvlm.model.constrained import Trie, constrained_greedy, score_answers
from prefixvlm.model.prefix_lm import PrefixLM

MAX_ROWS = 512  # rows times answers that are scored at once: their KV cache must fit in memory
BY = ("ranking", "trie")
CHOICES = "choices"


class ClosedSetAnswers:
    """Chooses the answer of each row from a list.

    answers: the list, a text file with one answer per line, or "choices" for the choices of each question.
    by: "ranking" for the likeliest answer with its EOS, "trie" for greedy decoding constrained to the list.
    normalize_length: rank by the mean over the tokens of an answer instead of the sum.
    end: text right before the answer, on which the tokenization of the answer depends.
    key: key of the options in the configuration, for error messages.
    """

    def __init__(self, answers: Sequence[str] | str, by: str, normalize_length: bool, end: str, key: str) -> None:
        if by not in BY:
            raise ValueError(f"{key}.choose is {by!r}; accepted are {', '.join(BY)}")
        if isinstance(answers, str) and answers != CHOICES:
            answers = _lines(answers, key)
        if wrong := [answer for answer in answers if not isinstance(answer, str)]:
            raise ValueError(
                f'{key}.answers has {wrong[0]!r}, which is no text; put it in quotes, as YAML needs for "yes"'
            )
        answers = answers if answers == CHOICES else [answer.strip() for answer in answers]
        if not answers or not all(answers) or (len(set(answers)) < len(answers) and answers != CHOICES):
            raise ValueError(f"{key}.answers is empty, or has an empty or repeated answer; give different answers")
        self.answers, self.by, self.normalize_length, self.end, self.key = answers, by, normalize_length, end, key
        self._tries: dict[tuple[str, ...], tuple[Trie, dict[tuple[int, ...], str]]] = {}

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoding options that a result records."""
        count = self.answers if self.answers == CHOICES else len(self.answers)
        ranking = {"normalize_length": self.normalize_length} if self.by == "ranking" else {}
        return {"method": self.by, "answers": count, **ranking}

    def __call__(self, model: PrefixLM, batch: Batch) -> list[str]:
        """Return the answers of the S rows."""
        answers = [self._answers_of_row(rows[0].choices, rows[0].id) for rows in batch.rows]
        if self.by == "ranking":
            return likeliest(model, batch, answers, self.end, self.normalize_length)
        return self._constrained(model, batch, answers)

    def _answers_of_row(self, choices: tuple[str, ...], id: str) -> Sequence[str]:
        if self.answers == CHOICES and not choices:
            raise ValueError(
                f"question {id!r} has no choices; set {self.key}.answers to a list, or to null to generate"
            )
        return choices if self.answers == CHOICES else self.answers

    def _constrained(self, model: PrefixLM, batch: Batch, answers_of_rows: Sequence[Sequence[str]]) -> list[str]:
        lists = [self._trie(model, tuple(answers)) for answers in answers_of_rows]
        texts = constrained_greedy(model, batch, [trie for trie, _ in lists])
        return [answer_of_ids[tuple(ids)] for (_, answer_of_ids), ids in zip(lists, texts, strict=True)]

    def _trie(self, model: PrefixLM, answers: tuple[str, ...]) -> tuple[Trie, dict[tuple[int, ...], str]]:
        """Return the trie of a list of answers, and the answers by their ids."""
        # Cached, because a list may have thousands of answers; but not the choices of every question.
        if answers not in self._tries:
            if self.answers == CHOICES:
                self._tries.clear()
            end = text_before_answers(model, self.end)
            answer_of_ids = {tuple(text_ids(model.lm.tokenizer, end, " " + a)): a for a in answers}
            self._tries[answers] = Trie(list(answer_of_ids), model.lm.eos_id), answer_of_ids
        return self._tries[answers]


def _lines(path: str, key: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{key}.answers is {path!r}, which is neither a list, a text file nor {CHOICES!r} ({error})"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def likeliest(
    model: PrefixLM,
    batch: Batch,
    answers_of_rows: Sequence[Sequence[str]],
    end: str,
    normalize_length: bool = False,
) -> list[str]:
    """Return the likeliest answer of each row. Rows with the same answers are scored together."""
    scores = likelihoods_of_rows(model, batch, answers_of_rows, end, normalize_length)
    return [answers[int(values.argmax())] for answers, values in zip(answers_of_rows, scores, strict=True)]


def likelihoods_of_rows(
    model: PrefixLM,
    batch: Batch,
    answers_of_rows: Sequence[Sequence[str]],
    end: str,
    normalize_length: bool = False,
) -> list[Tensor]:
    """Return the log-likelihoods of each row's own answers, see `likelihoods`: S times float32[A of the row]."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for number, answers in enumerate(answers_of_rows):
        rows.setdefault(tuple(answers), []).append(number)
    scores: dict[int, Tensor] = {}
    for answers, numbers in rows.items():
        scores |= dict(zip(numbers, likelihoods(model, batch.of(numbers), answers, end, normalize_length), strict=True))
    return [scores[number] for number in range(len(answers_of_rows))]


def text_before_answers(model: PrefixLM, end: str) -> str:
    """Return the text right before an answer: `end` or, in a chat, the opening of the assistant's turn."""
    return model.lm.chat.opening if model.lm.chat else end


def likelihoods(
    model: PrefixLM, batch: Batch, answers: Sequence[str], end: str, normalize_length: bool = False, space: str = " "
) -> Tensor:
    """Return the log-likelihood of each answer with its EOS after each prompt: float32[S, A], on the CPU.

    space: text between the prompt and an answer, as in training.
    """
    before = text_before_answers(model, end)
    ids = [text_ids(model.lm.tokenizer, before, space + answer) for answer in answers]
    num_answers = min(len(ids), MAX_ROWS)
    parts = []
    for part in batch.split(max(1, MAX_ROWS // num_answers)):
        chunks = [ids[first : first + num_answers] for first in range(0, len(ids), num_answers)]
        parts.append(torch.cat([score_answers(model, part, chunk, normalize_length) for chunk in chunks], 1).cpu())
    return torch.cat(parts)
