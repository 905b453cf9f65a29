"""Samples go in, batches for the model come out: what the loaders call, by way of each task."""

import random
from collections.abc import Callable, Mapping, Sequence

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.task.few_shot import FewShot
from prefixvlm.task.interface import Task

Collate = Callable[[Sequence[Row], bool, str], Batch]


class TrainingRows:
    """Training rows of the samples of a batch.

    mixed: rows of every task, in a batch for those that make text and one for each head. Otherwise a batch is of one
    task, drawn at random: its rows are of like length then, and hardly any of it is padding. What is drawn of a sample
    does not depend on the others, so however a step's samples are shared out over ranks, they are trained on alike.
    """

    def __init__(self, tasks: Mapping[str, Task], collate: Collate, mixed: bool = False) -> None:
        self.tasks = tasks
        self.collate = collate
        self.mixed = mixed

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch | list[Batch]:
        chosen = list(self.tasks) if self.mixed else [rng.choice(list(self.tasks))]
        drawn = rng.random()
        own = [random.Random(f"{drawn} {sample.key}") for sample in samples]
        rows: dict[str, list[Row]] = {}
        text = next((name for name in chosen if not self.tasks[name].has_head), "")
        for name in chosen:
            task = self.tasks[name]
            for each, mine in zip(samples, own, strict=True):
                rows.setdefault(name if task.has_head else text, []).extend(task.training_rows(each, mine))
        batches = [self.collate(each, True, name) for name, each in rows.items() if each]
        if not batches:
            raise ValueError(
                f"none of the samples from {samples[0].key} on has what task {', '.join(chosen)} is trained on; set "
                "task or data.shards to another"
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
