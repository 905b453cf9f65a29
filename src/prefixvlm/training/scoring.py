"""Collect the predictions of an evaluation pass, gather them from all ranks and score them on rank 0."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prefixvlm.distributed.gather import gather_by_id, on_rank_zero
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import Scorer, Task
from prefixvlm.task.results.prediction import Prediction, check_references


class TaskScoring:
    """Predicts and scores every task. There is one data loader per task, in the same order.

    extra_scorers: functions by task that add scores to the task's own.
    scored: False if the samples may lack references, as those of a test server do.
    predictions, reports: predictions and Task.report of the last pass, by task; the predictions on rank 0 only.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        extra_scorers: Mapping[str, Sequence[Scorer]] | None = None,
        scored: bool = True,
    ) -> None:
        self.tasks, self.extra_scorers, self.scored = dict(tasks), dict(extra_scorers or {}), scored
        self.predictions: dict[str, list[Prediction]] = {}
        self.reports: dict[str, dict[str, Any]] = {}

    def start(self, loaders: Any) -> None:
        """Begin a pass over the tasks' loaders."""
        self.predictions = {name: [] for name in self.tasks}
        for task, loader in zip(self.tasks.values(), as_list(loaders), strict=False):
            task.prepare(loader.samples)

    def predict(self, model: PrefixLM, batch: Any, loader_index: int) -> None:
        """Predict a batch of a loader. The batch is an empty list if no sample has a row of the task."""
        name, task = list(self.tasks.items())[loader_index]
        self.predictions[name] += task.predict(model, batch) if batch else []

    def finish(self, loaders: Any, num_batches: Sequence[float], log: Callable[[str, float], None]) -> None:
        """Gather the predictions of all ranks, score them on rank 0 and log every score as TASK_SCORE.

        num_batches: number of batches that the trainer ran of each loader.
        Raises ValueError on every rank if a sample was predicted twice or not at all, or if nothing can be scored.
        """
        for (name, task), loader, number in zip(self.tasks.items(), as_list(loaders), num_batches, strict=False):
            # With trainer.limit_val_batches samples are left out on purpose.
            complete = number >= len(loader)
            num_samples = loader.num_samples if complete and task.covers_every_sample else None
            predictions = self.predictions[name] = task.finalize(gather_by_id(self.predictions[name], num_samples))
            # A check on rank 0 alone would leave the other ranks waiting in the next collective.
            if self.scored and complete:
                on_rank_zero(partial(check_references, predictions, name))
            extra = self.extra_scorers.get(name, ())
            self.reports[name] = on_rank_zero(partial(task.report, predictions, extra))
            # Every rank logs, because all must agree on the best checkpoint: saving one is a collective.
            for score, value in self.reports[name]["scores"].items():
                log(f"{name}_{score}", value)


def as_list(loaders: Any) -> list[Any]:
    """Return loaders as a list; Lightning passes a single loader without one."""
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
