"""Prompts go in; the same prompts after worked examples from the training split come out (Frozen, Flamingo)."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from prefixvlm.batch import ImageOrFeatures, Row
from prefixvlm.data.sample import Sample
from prefixvlm.task.interface import Task

CHOICES = ("random", "nearest")
MAX_READ = 256  # samples of the pool that are kept decoded
SPARE = 4  # candidates for each demonstration: some may have nothing to show


class FewShot:
    """Puts `shots` demonstrations, and before them the induction, in front of every prompt.

    A demonstration is a training row of the task: image, prompt and target, then the separator.
    choice: random, or nearest: the images most like the prompt's own, the most alike last (RICES).
    pool_size: out of how many samples of the training split, drawn by the seed.
    induction: a sentence before everything, as "Please answer the question."
    """

    def __init__(
        self,
        shots: int = 0,
        choice: str = "random",
        pool_size: int = 2048,
        induction: str = "",
        separator: str = "\n",
        seed: int = 0,
    ) -> None:
        if choice not in CHOICES:
            raise ValueError(f"few_shot.choice is {choice!r}; accepted are {', '.join(CHOICES)}")
        if shots < 0 or pool_size < max(1, shots):
            raise ValueError(f"few_shot.shots is {shots} and pool_size {pool_size}; set 0 <= shots <= pool_size")
        self.shots, self.choice, self.pool_size, self.induction = shots, choice, pool_size, induction
        self.separator, self.seed = separator, seed
        self._pool: Callable[[int], Sample] | None = None
        self._keys: Sequence[str] = ()
        self._nearest: Mapping[str, Sequence[int]] | None = None
        self._read: dict[int, Sample] = {}  # no lru_cache: a loader's workers get the whole by pickle

    def set_pool(
        self, keys: Sequence[str], pool: Callable[[int], Sample], nearest: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        """keys: of the samples to choose from. pool: gives one by number. nearest: for each test key the numbers of the
        samples most like it, the most alike first."""
        if len(keys) <= self.shots:
            raise ValueError(f"few_shot.shots is {self.shots}, but there are only {len(keys)} training samples to show")
        self._keys, self._nearest, self._pool = keys, nearest, pool
        self._read = {}

    def __call__(self, task: Task, row: Row) -> Row:
        """The row with its context."""
        rng = random.Random(f"{self.seed}-{row.id}")
        parts: list[ImageOrFeatures | str] = [self.induction + self.separator] if self.induction else []
        for demonstration in self._demonstrations(task, row.key, rng):
            parts += [*demonstration.prompt, demonstration.target + self.separator]
        return replace(row, context=tuple(_joined([*parts, *row.context])))

    def _sample(self, number: int) -> Sample:
        """The same image object in several prompts of a batch is encoded once."""
        assert self._pool is not None, "set_pool comes first"
        if number not in self._read:
            if len(self._read) == MAX_READ:
                self._read.clear()
            self._read[number] = self._pool(number)
        return self._read[number]

    def _demonstrations(self, task: Task, key: str, rng: random.Random) -> list[Row]:
        """The most alike last. A sample without what the task needs, such as a label, gives way to the next one."""
        found: list[Row] = []
        for number in self._candidates(key, rng):
            if len(found) == self.shots:
                break
            if self._keys[number] != key and (rows := task.training_rows(self._sample(number), rng)):
                found.append(rng.choice(rows))
        if len(found) < self.shots:
            raise ValueError(
                f"only {len(found)} training samples have something to show for task {task.name}; "
                f"set few_shot.shots={len(found)} or less, few_shot.pool_size to more, or other shards"
            )
        return found[::-1]

    def _candidates(self, key: str, rng: random.Random) -> Iterable[int]:
        if not self.shots:
            return []
        if self._nearest is not None:
            return self._nearest[key]
        return rng.sample(range(len(self._keys)), min(len(self._keys), SPARE * self.shots + SPARE))


def _joined(parts: Sequence[ImageOrFeatures | str]) -> list[ImageOrFeatures | str]:
    """Neighbouring texts as one, so that they are tokenized as they were in training."""
    joined: list[ImageOrFeatures | str] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined
