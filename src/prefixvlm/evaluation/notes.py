"""What an evaluation cannot score, and scores that say nothing."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prefixvlm.data.sample import Sample
from prefixvlm.metrics.captions.cider import OF_ONE_IMAGE
from prefixvlm.task.interface import Task


def scorable(tasks: Mapping[str, Task], samples: Callable[[], Iterable[Sample]]) -> dict[str, Task]:
    """Return the tasks of which a sample has references; all tasks if none has, which is an error of its own."""
    if len(tasks) < 2:
        return dict(tasks)
    for task in tasks.values():
        task.prepare(samples)
    found = {name: task for name, task in tasks.items() if any(_has_references(task, each) for each in samples())}
    return found or dict(tasks)


def _has_references(task: Task, sample: Sample) -> bool:
    try:
        task.check_references(sample)
        return any(row.references for row in task.prompt_rows(sample))
    except ValueError:  # what the task needs is missing
        return False


def notes(passed_over: Iterable[str], reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the sentences about an evaluation. passed_over: names of tasks. reports: `tasks` of metrics.json."""
    found = [
        f"task {name} is passed over: no sample has what it is scored by; shards= names others" for name in passed_over
    ]
    for name, report in reports.items():
        for score, value in report["scores"].items():
            if score.split("_")[0] == "cider" and value == 0 and report["counts"].get(score) == 1:
                found.append(f"{name} {score}: {OF_ONE_IMAGE}")
    return found
