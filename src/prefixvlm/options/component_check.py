"""Checks of a configuration node before it is built: allowed `_target_`, known options, types of values."""

import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from omegaconf import MISSING

from prefixvlm.options.components import axis_of, check_name, resolve_target
from prefixvlm.options.ranges import STATED, check_value
from prefixvlm.options.static_signature import static_parameters

MAX_NAME = 200  # letters of a key or a `_target_`; the file of a longer name could not be asked for


def check(axis: str, node: Any, passed: Collection[str] = (), before_imports: bool = False) -> None:
    """Raise ValueError for a `_target_` that is not allowed, an unknown option, or a value of the wrong type or range.

    passed: names of arguments that the program passes, which a configuration may not set.
    before_imports: check only what the sources of the components show.
    """
    if isinstance(node, Mapping):
        for key in node:
            # The sentences below name it.
            if not isinstance(key, str) or not key.isprintable() or len(key) > MAX_NAME:
                raise ValueError(f"{axis} has the key {key!r:.80}; keys are words")
        if "_target_" in node:
            _check_target(axis, node, passed, before_imports)
        for key, value in node.items():
            check(f"{axis}.{key}", value, before_imports=before_imports)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            check(f"{axis}[{index}]", value, before_imports=before_imports)


def parameters_of(component: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a component by name; empty if it takes any keyword."""
    parameters = inspect.signature(component).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {} if takes_any else parameters


def _check_target(axis: str, node: Mapping[str, Any], passed: Collection[str], before_imports: bool) -> None:
    target = str(node["_target_"])
    if len(target) > MAX_NAME:
        raise ValueError(f"{axis}._target_ is {target!r:.80}; it must be the dotted name of a class")
    if before_imports:
        check_name(axis, target)
    parameters = static_parameters(target) if before_imports else parameters_of(resolve_target(axis, target))
    accepted = [name for name in parameters if name not in passed]
    special = {"_target_", "_partial_"} if (found := axis_of(axis)) and found.partial else {"_target_"}
    for key, value in node.items() if parameters else ():
        if key not in accepted and key not in special:
            raise ValueError(f"{axis}.{key} is not an option of {target}{nearest(key, accepted, f'{axis}.')}")
        if key in accepted:
            annotation = STATED.get(target, {}).get(key, parameters[key].annotation)
            if value != MISSING:
                check_value(f"{axis}.{key}", value, annotation)


def nearest(word: str, accepted: list[str], prefix: str = "") -> str:
    """Return the end of an error message, which suggests the nearest accepted word or lists all of them."""
    if close := difflib.get_close_matches(word, accepted, n=1, cutoff=0.5):
        return f"; did you mean {prefix}{close[0]}?"
    return f"; accepted are {', '.join(sorted(accepted))}"
