"""Few-shot prompts: demonstrations from the training split before each prompt (Frozen, Flamingo)."""

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from prefixvlm.batch import ImageOrFeatures, Row
from prefixvlm.data.sample import Sample
from prefixvlm.options.ranges import NonNegative, Positive, Seed
from prefixvlm.task.interface import Task

CHOICES = ("random", "nearest")
MAX_DECODED = 256  # samples of the pool that are kept decoded
NUM_SPARE = 4  # candidates for each demonstration, because some samples have no row of the task


class FewShot:
    """Options of few-shot prompts.

    shots: number of demonstrations. A demonstration is a training row of the task: image, prompt and target.
    choice: "random", or "nearest" for the most similar images, the most similar last (RICES, Yang et al. 2022).
    pool_size: number of training samples to choose from, drawn by the seed.
    induction: sentence before the demonstrations, such as "Please answer the question."
    separator: text after each demonstration.
    """

    def __init__(
        self,
        shots: NonNegative = 0,
        choice: str = "random",
        pool_size: Positive = 2048,
        induction: str = "",
        separator: str = "\n",
        seed: Seed = 0,
    ) -> None:
        if choice not in CHOICES:
            raise ValueError(f"few_shot.choice is {choice!r}; accepted are {', '.join(CHOICES)}")
        if shots < 0 or pool_size < max(1, shots):
            raise ValueError(f"few_shot.shots is {shots} and pool_size {pool_size}; set 0 <= shots <= pool_size")
        self.shots, self.choice, self.pool_size, self.induction = shots, choice, pool_size, induction
        self.separator, self.seed = separator, seed


class Pool(Protocol):
    """Training samples by number, and their keys."""

    @property
    def keys(self) -> Sequence[str]: ...

    def __getitem__(self, number: int) -> Sample: ...


class Demonstrations:
    """Adds the induction and demonstrations from a pool to the context of rows.

    nearest: numbers of the most similar samples of the pool by the key of a test sample, the most similar first.
    Raises ValueError if the pool has no more samples than there are shots.
    """

    def __init__(
        self, few_shot: FewShot, pool: Pool | None = None, nearest: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self.keys = pool.keys if pool is not None else []
        if few_shot.shots and len(self.keys) <= few_shot.shots:
            raise ValueError(
                f"few_shot.shots is {few_shot.shots}, but there are only {len(self.keys)} training samples to show"
            )
        self.few_shot, self.pool, self.nearest = few_shot, pool, nearest
        self._decoded: dict[int, Sample] = {}  # not an lru_cache, which the workers of a loader could not unpickle

    def __call__(self, task: Task, row: Row) -> Row:
        """Return the row with the demonstrations in its context."""
        options = self.few_shot
        # The choice depends on the seed and the row alone, so that it is the same on any number of ranks and workers.
        rng = random.Random(f"{options.seed}-{row.id}")
        parts: list[ImageOrFeatures | str] = [options.induction + options.separator] if options.induction else []
        for demonstration in self._choose(task, row.key, rng):
            parts += [*demonstration.prompt, demonstration.target + options.separator]
        return replace(row, context=tuple(join_texts([*parts, *row.context])))

    def _choose(self, task: Task, key: str, rng: random.Random) -> list[Row]:
        """Return the demonstrations of a prompt, the most similar last, without samples that have no row."""
        shots = self.few_shot.shots
        chosen: list[Row] = []
        for number in self._candidates(key, rng):
            if len(chosen) == shots:
                break
            # A test sample in the pool would show its own answer.
            if self.keys[number] != key and (rows := task.training_rows(self._sample(number), rng)):
                chosen.append(rng.choice(rows))
        if len(chosen) < shots:
            raise ValueError(
                f"only {len(chosen)} training samples have a row to show for task {task.name}; "
                f"set few_shot.shots={len(chosen)} or less, few_shot.pool_size to more, or other shards"
            )
        return chosen[::-1]

    def _candidates(self, key: str, rng: random.Random) -> Iterable[int]:
        shots = self.few_shot.shots
        if not shots:
            return []
        if self.nearest is not None:
            return self.nearest[key]
        return rng.sample(range(len(self.keys)), min(len(self.keys), NUM_SPARE * shots + NUM_SPARE))

    def _sample(self, number: int) -> Sample:
        """Return a sample of the pool. Rows of a batch share its image object, which is then encoded once."""
        assert self.pool is not None, "without a pool there are no candidates"
        if number not in self._decoded:
            if len(self._decoded) == MAX_DECODED:
                self._decoded.clear()
            self._decoded[number] = self.pool[number]
        return self._decoded[number]


def join_texts(parts: Sequence[ImageOrFeatures | str]) -> list[ImageOrFeatures | str]:
    """Join neighbouring texts, so that they are tokenized as in training."""
    joined: list[ImageOrFeatures | str] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return joined
