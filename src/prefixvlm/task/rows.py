"""Samples go in, batches for the model come out: what the loaders call, by way of each task."""

import random
from collections.abc import Callable, Mapping, Sequence

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.task.interface import Task

Collate = Callable[[Sequence[Row], bool], Batch]


class TrainingRows:
    """All tasks' training rows of the samples in one batch: training may mix tasks."""

    def __init__(self, tasks: Mapping[str, Task], collate: Collate) -> None:
        self.tasks = tasks
        self.collate = collate

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch:
        rows = [row for sample in samples for task in self.tasks.values() for row in task.training_rows(sample, rng)]
        return self.collate(rows, True)


class PromptRows:
    """One task's prompts for the samples of a batch."""

    def __init__(self, task: Task, collate: Collate) -> None:
        self.task = task
        self.collate = collate

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch:
        rows = [row for sample in samples for row in self.task.prompt_rows(sample)]
        return self.collate(rows, False)
