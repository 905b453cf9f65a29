"""A node of a configuration goes in; a ValueError comes out if what it names is not allowed or takes no such option."""

import difflib
import inspect
from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import MISSING

# Hydra would call anything that a configuration names, also one read from a checkpoint.
ALLOWED_TARGETS = ("prefixvlm.", "torch.optim.", "lightning.pytorch.")


def check(axis: str, node: Any, handed: Mapping[str, Any] | None = None) -> None:
    """Every `_target_` is allowed and takes every key given to it; a ValueError names the nearest key that it takes."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_target(axis, node, handed or {})
        for key, value in node.items():
            check(f"{axis}.{key}", value)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            check(f"{axis}[{index}]", value)


def _check_target(axis: str, node: Mapping[str, Any], handed: Mapping[str, Any]) -> None:
    target = node["_target_"]
    allowed = isinstance(target, str) and target.startswith(ALLOWED_TARGETS)
    try:
        found = get_object(target) if allowed else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{axis}._target_ is {target!r}, which there is not") from error
    # prefixvlm.some_module.torch.load has the right beginning, but it is not ours.
    if found is None or not f"{getattr(found, '__module__', '')}.".startswith(ALLOWED_TARGETS):
        raise ValueError(f"{axis}._target_ is {target!r}; accepted are names under {', '.join(ALLOWED_TARGETS)}")
    parameters = inspect.signature(found).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    accepted = [name for name in parameters if name not in handed]
    for key, value in node.items():
        if not (key.startswith("_") and key.endswith("_")) and key not in parameters:
            raise ValueError(f"{axis}.{key} is not an option of {target}{nearest(key, accepted, f'{axis}.')}")
        if key in parameters:
            _check_value(f"{axis}.{key}", value, parameters[key].annotation)


KINDS = {int: "an int", float: "a float", bool: "true or false", str: "a text", NoneType: "null"}


def _check_value(key: str, value: Any, annotation: Any) -> None:
    """Raise ValueError for another type than is annotated; annotations of other kinds than these say nothing."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    fits = type(value) in kinds or (type(value) is int and float in kinds) or value == MISSING
    if not fits and all(kind in KINDS for kind in kinds):
        raise ValueError(f"{key} is {value!r}; it must be {' or '.join(KINDS[kind] for kind in kinds)}")


def nearest(word: str, accepted: list[str], prefix: str = "") -> str:
    """The end of an error message: the nearest accepted word, or all of them."""
    if close := difflib.get_close_matches(word, accepted, n=1, cutoff=0.5):
        return f"; did you mean {prefix}{close[0]}?"
    return f"; accepted are {', '.join(sorted(accepted))}"
