"""A batch of prompts and a closed list of answers go in; each row's answer from the list, or how likely each is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.data.collate import said_ids
from prefixvlm.model.constrained import Trie, constrained_greedy, score_answers
from prefixvlm.model.prefix_lm import PrefixLM

MAX_READ = 512  # rows times answers that are read at once: what they remember must fit
BY = ("ranking", "trie")
CHOICES = "choices"


class ClosedSetAnswers:
    """Answers from a list instead of generated ones.

    answers: the list, a text file with one a line, or "choices": those that come with each question.
    by: ranking, the likeliest answer as a whole (its EOS included), or trie, greedy decoding held to the list.
    normalize_length: rank by the mean over an answer's tokens, not by the sum.
    end: what stands right before the answer; the answer's tokens go on from it.
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
            raise ValueError(f"{key}.answers has none, an empty one or one twice; give a list of different answers")
        self.answers, self.by, self.normalize_length, self.end, self.key = answers, by, normalize_length, end, key
        self._lists: dict[tuple[str, ...], tuple[Trie, dict[tuple[int, ...], str]]] = {}

    @property
    def decoding(self) -> dict[str, Any]:
        """What a result says of how its answers came about."""
        count = self.answers if self.answers == CHOICES else len(self.answers)
        ranking = {"normalize_length": self.normalize_length} if self.by == "ranking" else {}
        return {"method": self.by, "answers": count, **ranking}

    def __call__(self, model: PrefixLM, batch: Batch) -> list[str]:
        """One of the answers for each of the S rows."""
        of_rows = [self._of(rows[0].choices, rows[0].id) for rows in batch.rows]
        return (self._ranked if self.by == "ranking" else self._held)(model, batch, of_rows)

    def _of(self, choices: tuple[str, ...], id: str) -> Sequence[str]:
        if self.answers == CHOICES and not choices:
            raise ValueError(
                f"question {id!r} has no choices; set {self.key}.answers to a list, or to null to generate"
            )
        return choices if self.answers == CHOICES else self.answers

    def _ranked(self, model: PrefixLM, batch: Batch, of_rows: Sequence[Sequence[str]]) -> list[str]:
        return likeliest(model, batch, of_rows, self.end, self.normalize_length)

    def _held(self, model: PrefixLM, batch: Batch, of_rows: Sequence[Sequence[str]]) -> list[str]:
        lists = [self._spelled(model, tuple(answers)) for answers in of_rows]
        said = constrained_greedy(model, batch, [trie for trie, _ in lists])
        return [spelled[tuple(text)] for (_, spelled), text in zip(lists, said, strict=True)]

    def _spelled(self, model: PrefixLM, answers: tuple[str, ...]) -> tuple[Trie, dict[tuple[int, ...], str]]:
        """A list's trie and its answers by their ids, made once: a list may have thousands."""
        if answers not in self._lists:
            if self.answers == CHOICES:  # each question's own: not to be kept
                self._lists.clear()
            end = before_answers(model, self.end)
            spelled = {tuple(said_ids(model.lm.tokenizer, end, " " + a)): a for a in answers}
            self._lists[answers] = Trie(list(spelled), model.lm.eos_id), spelled
        return self._lists[answers]


def _lines(path: str, key: str) -> list[str]:
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{key}.answers is {path!r}, which is neither a list, a text file nor {CHOICES!r} ({error})"
        ) from error
    return [line.strip() for line in lines if line.strip()]


def likeliest(
    model: PrefixLM, batch: Batch, of_rows: Sequence[Sequence[str]], end: str, normalize_length: bool = False
) -> list[str]:
    """The likeliest of each row's own answers; rows with the same answers are read together."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for number, answers in enumerate(of_rows):
        rows.setdefault(tuple(answers), []).append(number)
    best = [""] * len(of_rows)
    for answers, numbers in rows.items():
        found = likelihoods(model, batch.of(numbers), answers, end, normalize_length).argmax(1)
        for number, place in zip(numbers, found.tolist(), strict=True):
            best[number] = answers[place]
    return best


def before_answers(model: PrefixLM, end: str) -> str:
    """What stands right before an answer: the prompt's end, or what the assistant's turn begins with."""
    return model.lm.chat.opening if model.lm.chat else end


def likelihoods(
    model: PrefixLM, batch: Batch, answers: Sequence[str], end: str, normalize_length: bool = False, space: str = " "
) -> Tensor:
    """Log-likelihood of each answer, its EOS included, after each prompt: float32[S, A], on the CPU.

    space: what stands between the prompt and an answer, as in training.
    """
    ids = [said_ids(model.lm.tokenizer, before_answers(model, end), space + answer) for answer in answers]
    width = min(len(ids), MAX_READ)
    parts = []
    for part in batch.split(max(1, MAX_READ // width)):
        chunks = [ids[first : first + width] for first in range(0, len(ids), width)]
        parts.append(torch.cat([score_answers(model, part, chunk, normalize_length) for chunk in chunks], 1).cpu())
    return torch.cat(parts)
