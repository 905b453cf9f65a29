"""Heads of the tasks in a checkpoint: which are loaded, replaced by new ones, or refused."""

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prefixvlm.task.interface import Task
from prefixvlm.training.checkpoint import KEY

HEADS = "model.heads."  # followed by the task's name: model.heads.NAME.weight
logger = logging.getLogger(__name__)


def without_other_heads(checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Return a copy of the checkpoint with the heads of these tasks only.

    Raises ValueError if the head of a task is missing or was trained with other options.
    """
    stored = checkpoint["state_dict"]
    heads = {_task_of(name) for name in stored if name.startswith(HEADS)}
    trained = _trained_tasks(checkpoint)
    for name, task in tasks.items():
        if task.has_head and name not in heads:
            trained_for = f" it was trained for {', '.join(trained)};" if trained else ""
            raise ValueError(
                f"the checkpoint has no head of task {name}:{trained_for} set task to what it was trained for, or "
                f"train with task={name}"
            )
        if task.has_head:
            _check_options(name, task, trained.get(name) or {})
    state = {name: value for name, value in stored.items() if not name.startswith(HEADS) or _task_of(name) in tasks}
    return {**checkpoint, "state_dict": state}


def check_tasks(checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> None:
    """Raise ValueError if a run would resume with other tasks, or other outputs of a head, than it started with."""
    trained = _trained_tasks(checkpoint)
    # The optimizer's state belongs to the parameters of all heads, so that a head cannot come or go in a resumed run.
    if trained and trained.keys() != tasks.keys():
        raise ValueError(
            f"the run in this folder trains task {', '.join(trained)}, not {', '.join(tasks)}; set hydra.run.dir to "
            "another folder, or resume=never"
        )
    for name, task in tasks.items():
        if task.has_head:
            _check_options(name, task, trained.get(name) or {})


def new_heads(state: Mapping[str, Tensor], checkpoint: Mapping[str, Any], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Return a copy of the checkpoint with the heads of `state` where it has none, or one with other options.

    state: the trained tensors of the model. Logs a warning for each head that is replaced.
    """
    trained = _trained_tasks(checkpoint)
    replaced = {name for name, task in tasks.items() if _changed_options(task, trained.get(name) or {})}
    for name in sorted(replaced):
        logger.warning("the head of task %s starts from random weights: it was trained with other options", name)
    initial = {name: value for name, value in state.items() if name.startswith(HEADS)}
    stored = {
        name: value
        for name, value in checkpoint["state_dict"].items()
        if not (name.startswith(HEADS) and _task_of(name) in replaced)
    }
    # Without the old options in the configuration, without_other_heads has nothing to compare the new heads with.
    config = {**_config(checkpoint), "task": {name: each for name, each in trained.items() if name not in replaced}}
    return {**checkpoint, "state_dict": initial | stored, KEY: {**checkpoint.get(KEY, {}), "config": config}}


def _task_of(name: str) -> str:
    """Return the name of the task that a tensor of a head belongs to."""
    return name.split(".")[2]


def _check_options(name: str, task: Task, trained: Mapping[str, Any]) -> None:
    """Raise ValueError if the outputs of the head meant something else in training, such as other classes."""
    for key, (ours, theirs) in _changed_options(task, trained).items():
        raise ValueError(
            f"the checkpoint's head of task {name} was trained with {key}={theirs}, but here task.{name}.{key} is "
            f"{ours}; set it to that, or leave task out in an evaluation"
        )


def _changed_options(task: Task, trained: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the options of the head that differ from training, each with the value here and the trained one."""
    # An option that the checkpoint's configuration does not name had its default in training.
    parameters = inspect.signature(type(task)).parameters
    pairs = {
        key: (getattr(task, key), trained.get(key, parameters[key].default)) for key in task.head_options if trained
    }
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _config(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    return checkpoint.get(KEY, {}).get("config") or {}


def _trained_tasks(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    return _config(checkpoint).get("task") or {}
