"""A model's tasks and another run's checkpoint go in; its tensors without the heads of other tasks come out."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prefixvlm.task.interface import Task
from prefixvlm.training.checkpoint import KEY

HEADS = "model.heads."


def without_other_heads(checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """The checkpoint, its state without the heads of tasks that are not here.

    Raises ValueError, which says what to set, if it lacks the head of a task or the head says something else.
    """
    stored = checkpoint["state_dict"]
    heads = {name.split(".")[2] for name in stored if name.startswith(HEADS)}
    trained = (checkpoint.get(KEY, {}).get("config") or {}).get("task") or {}
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


def new_heads(state: Mapping[str, Tensor], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint with the heads in `state` that it has not."""
    own = {name: each for name, each in state.items() if name.startswith(HEADS)}
    return {**checkpoint, "state_dict": own | checkpoint["state_dict"]}


def _check_options(name: str, task: Task, trained: Mapping[str, Any]) -> None:
    """What the head's numbers mean is what they meant in training."""
    parameters = inspect.signature(type(task)).parameters
    for key in getattr(task, "of_head", ()) if trained else ():
        ours, theirs = getattr(task, key), trained.get(key, parameters[key].default)
        if ours != theirs:
            raise ValueError(
                f"the checkpoint's head of task {name} was trained with {key}={theirs}, but here task.{name}.{key} is "
                f"{ours}; set it to that, or leave task out in an evaluation"
            )
