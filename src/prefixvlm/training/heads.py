"""A model's tasks and another run's checkpoint go in; its tensors without the heads of other tasks come out."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prefixvlm.task.interface import Task
from prefixvlm.training.checkpoint import KEY

HEADS = "model.heads."
logger = logging.getLogger(__name__)


def without_other_heads(checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The checkpoint, its state without the heads of tasks that are not here.

    Raises ValueError, which says what to set, if it lacks the head of a task or the head says something else.
    """
    stored = checkpoint["state_dict"]
    heads = {name.split(".")[2] for name in stored if name.startswith(HEADS)}
    trained = _trained_tasks(checkpoint)
    for name, task in tasks.items():
        if task.has_head and name not in heads:
            of = f" it was trained for {', '.join(trained)};" if trained else ""
            raise ValueError(
                f"the checkpoint has no head of task {name}:{of} set task to what it was trained for, or train with "
                f"task={name}"
            )
        if task.has_head:
            _check_options(name, task, trained.get(name) or {})
    kept = {name: each for name, each in stored.items() if not name.startswith(HEADS) or name.split(".")[2] in tasks}
    return {**checkpoint, "state_dict": kept}


def check_tasks(checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> None:
    """Raises ValueError if a run is to go on with other tasks than it began with."""
    trained = _trained_tasks(checkpoint)
    if trained and trained.keys() != tasks.keys():
        raise ValueError(
            f"the run in this folder trains task {', '.join(trained)}, not {', '.join(tasks)}; set hydra.run.dir to "
            "another folder, or resume=never"
        )


def new_heads(state: Mapping[str, Tensor], checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The checkpoint with the heads in `state` that it has not, or whose numbers meant something else."""
    trained = _trained_tasks(checkpoint)
    others = {name for name, task in tasks.items() if _differing(task, trained.get(name) or {})}
    for name in sorted(others):
        logger.warning("the head of task %s begins anew: another one was trained", name)
    own = {name: each for name, each in state.items() if name.startswith(HEADS)}
    stored = checkpoint["state_dict"]
    kept = {
        name: each for name, each in stored.items() if not (name.startswith(HEADS) and name.split(".")[2] in others)
    }
    config = {**_config(checkpoint), "task": {name: each for name, each in trained.items() if name not in others}}
    about = {**checkpoint.get(KEY, {}), "config": config}
    return {**checkpoint, "state_dict": own | kept, KEY: about}


def _check_options(name: str, task: Task, trained: Mapping[str, Any]) -> None:
    """What the head's numbers mean is what they meant in training."""
    for key, (ours, theirs) in _differing(task, trained).items():
        raise ValueError(
            f"the checkpoint's head of task {name} was trained with {key}={theirs}, but here task.{name}.{key} is "
            f"{ours}; set it to that, or leave task out in an evaluation"
        )


def _differing(task: Task, trained: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The options of the head that are others than in training, with both values."""
    parameters = inspect.signature(type(task)).parameters
    pairs = {
        key: (getattr(task, key), trained.get(key, parameters[key].default)) for key in task.head_options if trained
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _config(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    return checkpoint.get(KEY, {}).get("config") or {}


def _trained_tasks(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    return _config(checkpoint).get("task") or {}
