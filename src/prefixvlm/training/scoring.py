"""Predictions of an evaluation pass: collected batch by batch, gathered from all ranks, and scored on rank 0."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from prefixvlm.distributed.gather import gather_by_id, on_rank_zero
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import Scorer, Task
from prefixvlm.task.results.prediction import Prediction, check_references


class TaskScoring:
    """Predicts and scores every task, a data loader each, in the tasks' order.

    extra_scorers: by task, functions that add scores to the task's own.
    scored: False where there may be no references, as for a test server.
    predictions, reports: of the last pass, by task; see Task.report.
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
        """Add the predictions of a batch; an empty one has no row of the task."""
        name, task = list(self.tasks.items())[loader_index]
        self.predictions[name] += task.predict(model, batch) if batch else []

    def finish(self, loaders: Any, num_batches: Sequence[float], log: Callable[[str, float], None]) -> None:
        """Gather the predictions of all ranks, score them on rank 0 and log every score as TASK_SCORE.

        num_batches: of each loader, that the trainer ran; a trainer that stops early leaves predictions out.
        Raises ValueError, on every rank, if a sample was predicted twice or not at all, or nothing can be scored.
        """
        for (name, task), loader, number in zip(self.tasks.items(), as_list(loaders), num_batches, strict=False):
            complete = number >= len(loader)
            num_samples = loader.num_samples if complete and task.covers_every_sample else None
            predictions = self.predictions[name] = task.finalize(gather_by_id(self.predictions[name], num_samples))
            if self.scored and complete:
                on_rank_zero(partial(check_references, predictions, name))
            extra = self.extra_scorers.get(name, ())
            self.reports[name] = on_rank_zero(partial(task.report, predictions, extra))
            for score, value in self.reports[name]["scores"].items():
                log(f"{name}_{score}", value)


def as_list(loaders: Any) -> list[Any]:
    """Lightning hands on a single loader without a list around it."""
    return list(loaders) if isinstance(loaders, list | tuple) else [loaders]
