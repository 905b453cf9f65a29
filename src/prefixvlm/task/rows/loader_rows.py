"""Collate functions for the data loaders: batches of a task's rows from samples."""

import random
from collections.abc import Callable, Mapping, Sequence

from prefixvlm.batch import Batch, NothingToLearnError, Row
from prefixvlm.data.collate import Collator
from prefixvlm.data.collates import Collates
from prefixvlm.data.sample import Sample
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import Task
from prefixvlm.task.rows.augment import Augment
from prefixvlm.task.rows.few_shot import Demonstrations

Collate = Callable[[Sequence[Row], bool, str], Batch]
NO_AUGMENT = Augment()


def collator_for(model: PrefixLM, max_target_length: int | None = None) -> Collator:
    """Return a Collator with the transform, tokenizer and lengths of a model."""
    encoder, lm = model.encoder, model.lm
    return Collator(
        encoder.loader_transform, lm.tokenizer, model.mapper.prefix_length, lm.bos_ids, lm.eos_id, lm.pad_id,
        max_target_length=max_target_length, max_positions=lm.max_positions, reads_features=encoder.reads_features,
        start_ids=lm.start_ids, end_ids=lm.end_ids, chat=lm.chat,
    )  # fmt: skip


class TrainingRows:
    """Collates the training rows of a batch of samples.

    mixed: return rows of all tasks, in one batch for the tasks that generate text and one for each head. Otherwise
    return a batch of one task, drawn at random, because rows of similar length need little padding. If the samples have
    no rows of that task, the next one follows. A sample without a text for a task is left out of its rows if it has one
    for another task, as the corrections of users; otherwise the error of the task is raised.
    augment: changes the images, in training.
    """

    def __init__(
        self, tasks: Mapping[str, Task], collate: Collate, mixed: bool = False, augment: Augment = NO_AUGMENT
    ) -> None:
        self.tasks, self.collate, self.mixed, self.augment = tasks, collate, mixed, augment

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch | list[Batch]:
        first = rng.choice(list(self.tasks))
        order = [first, *(name for name in self.tasks if name != first)]
        # The random choices for a sample depend on the step and its key only. A step therefore trains on the same rows,
        # however its samples are split over ranks.
        step = rng.random()
        sample_rngs = [random.Random(f"{step} {sample.key}") for sample in samples]
        samples = [self.augment(sample, rng) for sample, rng in zip(samples, sample_rngs, strict=True)]
        rows: dict[str, list[Row]] = {}
        text_task = next((name for name in self.tasks if not self.tasks[name].has_head), "")
        for name in self.tasks if self.mixed else order:
            task = self.tasks[name]
            for sample, sample_rng in zip(samples, sample_rngs, strict=True):
                group = text_task if self.mixed and not task.has_head else name
                rows.setdefault(group, []).extend(self._rows(task, sample, sample_rng))
            if not self.mixed and rows[name]:
                break
        batches = [self.collate(each, True, name) for name, each in rows.items() if each]
        if not batches:
            raise NothingToLearnError(
                f"none of the samples from {samples[0].key} on has training rows for task {', '.join(self.tasks)}; "
                "set other options of the task, another task or other data.shards"
            )
        return batches if self.mixed else batches[0]

    def _rows(self, task: Task, sample: Sample, rng: random.Random) -> list[Row]:
        try:
            return task.training_rows(sample, rng)
        except NothingToLearnError:
            raise
        except ValueError:
            others = (each for each in self.tasks.values() if each is not task and not each.has_head)
            if task.has_head or not any(_has_rows(each, sample) for each in others):
                raise
            return []


def _has_rows(task: Task, sample: Sample) -> bool:
    try:
        return bool(task.training_rows(sample, random.Random(0)))
    except ValueError:
        return False


class PromptRows:
    """Collates the prompts of one task; returns an empty list if the samples have none.

    demonstrations: added to every prompt.
    scored: raise ValueError for a sample without references.
    """

    def __init__(
        self, task: Task, collate: Collate, demonstrations: Demonstrations | None = None, scored: bool = True
    ) -> None:
        self.task, self.collate, self.demonstrations, self.scored = task, collate, demonstrations, scored

    def __call__(self, samples: Sequence[Sample], rng: random.Random) -> Batch | list[Batch]:
        for sample in samples if self.scored else ():
            self.task.check_references(sample)
        rows = [row for sample in samples for row in self.task.prompt_rows(sample)]
        if self.demonstrations:
            rows = [self.demonstrations(self.task, row) for row in rows]
        return self.collate(rows, False, self.task.name) if rows else []


def collates_of(tasks: Mapping[str, Task], collate: Collate, augment: Augment) -> Collates:
    """Return the collate functions for training, for the validation loss, and for the prompts of each task."""
    prompts = {name: PromptRows(task, collate) for name, task in tasks.items()}
    return Collates(TrainingRows(tasks, collate, augment=augment), TrainingRows(tasks, collate, mixed=True), prompts)
