"""Samples go in, batches for the model come out: what the loaders call, by way of each task."""

import random
from collections.abc import Callable, Mapping, Sequence

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.task.few_shot import FewShot
from prefixvlm.task.interface import Task

Collate = Callable[[Sequence[Row], bool], Batch]


class TrainingRows:
    """Training rows of the samples of a batch.

    mixed: rows of every task. Otherwise a batch is of one task, drawn at random: its rows are of like length then, and
    hardly any of it is padding. What is drawn of a sample does not depend on the others, so however a step's samples
    are shared out over ranks, they are trained on alike.
    """

    def __init__(self, tasks: Mapping[str, Task], collate: Collate, mixed: bool = False) -> None:
        self.tasks = tasks
        self.collate = collate
        self.mixed = mixed

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch:
        tasks = list(self.tasks.values())
        chosen = tasks if self.mixed else [rng.choice(tasks)]
        drawn = rng.random()
        own = [random.Random(f"{drawn} {sample.key}") for sample in samples]
        rows = [
            row
            for task in chosen
            for each, mine in zip(samples, own, strict=True)
            for row in task.training_rows(each, mine)
        ]
        return self.collate(rows, True)


class PromptRows:
    """One task's prompts for the samples of a batch, after demonstrations where few_shot is set."""

    def __init__(self, task: Task, collate: Collate, few_shot: FewShot | None = None) -> None:
        self.task, self.collate, self.few_shot = task, collate, few_shot

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch:
        rows = [row for sample in samples for row in self.task.prompt_rows(sample)]
        if self.few_shot:
            rows = [self.few_shot(self.task, row) for row in rows]
        return self.collate(rows, False)
