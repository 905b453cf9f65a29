"""Samples go in, batches for the model come out: what the loaders call, by way of each task."""

import random
from collections.abc import Callable, Mapping, Sequence

from prefixvlm.batch import Batch, NothingToLearnError, Row
from prefixvlm.data.sample import Sample
from prefixvlm.task.interface import Task
from prefixvlm.task.rows.few_shot import FewShot

Collate = Callable[[Sequence[Row], bool, str], Batch]


class TrainingRows:
    """Training rows of the samples of a batch.

    mixed: rows of every task, in a batch for those that make text and one for each head. Otherwise a batch is of one
    task, drawn at random: its rows are of like length then, and hardly any of it is padding; where it has no rows of
    that task, of the next. What is drawn of a sample does not depend on the others, so however a step's samples are
    shared out over ranks, they are trained on alike.
    """

    def __init__(self, tasks: Mapping[str, Task], collate: Collate, mixed: bool = False) -> None:
        self.tasks = tasks
        self.collate = collate
        self.mixed = mixed

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch | list[Batch]:
        first = rng.choice(list(self.tasks))
        order = [first, *(name for name in self.tasks if name != first)]
        drawn = rng.random()
        own = [random.Random(f"{drawn} {sample.key}") for sample in samples]
        rows: dict[str, list[Row]] = {}
        text = next((name for name in self.tasks if not self.tasks[name].has_head), "")
        for name in self.tasks if self.mixed else order:
            task = self.tasks[name]
            for each, mine in zip(samples, own, strict=True):
                of = text if self.mixed and not task.has_head else name
                rows.setdefault(of, []).extend(task.training_rows(each, mine))
            if not self.mixed and rows[name]:
                break
        batches = [self.collate(each, True, name) for name, each in rows.items() if each]
        if not batches:
            raise NothingToLearnError(
                f"none of the samples from {samples[0].key} on has what task {', '.join(self.tasks)} is trained on; "
                "set the task's options, task or data.shards to others"
            )
        return batches if self.mixed else batches[0]


class PromptRows:
    """One task's prompts for the samples of a batch, after demonstrations where few_shot is set; [] if it has none."""

    def __init__(self, task: Task, collate: Collate, few_shot: FewShot | None = None) -> None:
        self.task, self.collate, self.few_shot = task, collate, few_shot

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch | list[Batch]:
        rows = [row for sample in samples for row in self.task.prompt_rows(sample)]
        if self.few_shot:
            rows = [self.few_shot(self.task, row) for row in rows]
        return self.collate(rows, False, self.task.name) if rows else []
