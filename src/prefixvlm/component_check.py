"""Checks of a configuration node before it is built: allowed `_target_`, known options, types of values."""

import difflib
import inspect
from collections.abc import Collection, Mapping
from typing import Any

from hydra.utils import get_object
from omegaconf import MISSING

from prefixvlm import plugins
from prefixvlm.options.ranges import STATED, check_value
from prefixvlm.options.static_signature import static_parameters

# Hydra calls any function that a configuration names, and a configuration may come from a checkpoint. Its own blocklist
# (Hydra 1.3.8) is not a complete security boundary.
ALLOWED_TARGETS = ("prefixvlm.", "torch.optim.", "lightning.pytorch.")


def check(axis: str, node: Any, passed: Collection[str] = (), before_imports: bool = False) -> None:
    """Raise ValueError for a `_target_` that is not allowed, an unknown option, or a value of the wrong type or range.

    passed: names of arguments that the program passes, which a configuration may not set.
    before_imports: check only what the sources of the components show, whatever `_target_` is.
    """
    if isinstance(node, Mapping):
        if "_target_" in node:
            _check_target(axis, node, passed, before_imports)
        for key, value in node.items():
            check(f"{axis}.{key}", value, before_imports=before_imports)
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            check(f"{axis}[{index}]", value, before_imports=before_imports)


def resolve_target(axis: str, target: Any) -> Any:
    """Return the class or function that a `_target_` names. Raises ValueError if it is not allowed."""
    allowed = isinstance(target, str) and (target.startswith(ALLOWED_TARGETS) or plugins.defines(target))
    try:
        component = get_object(target) if allowed else None
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{axis}._target_ is {target!r}, which does not exist") from error
    # prefixvlm.some_module.torch.load begins with an allowed name, but is defined elsewhere.
    home = f"{getattr(component, '__module__', '')}."
    if component is None or not (home.startswith(ALLOWED_TARGETS) or plugins.defines(home)):
        module = str(target).rpartition(".")[0]
        raise ValueError(
            f"{axis}._target_ is {target!r}; accepted are names under {', '.join(ALLOWED_TARGETS)} and those of "
            f"modules of your own, which the command line names: plugins=[{module}]"
        )
    return component


def parameters_of(component: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a component by name; empty if it takes any keyword."""
    parameters = inspect.signature(component).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return {} if takes_any else parameters


def _check_target(axis: str, node: Mapping[str, Any], passed: Collection[str], before_imports: bool) -> None:
    target = str(node["_target_"])
    parameters = static_parameters(target) if before_imports else parameters_of(resolve_target(axis, node["_target_"]))
    accepted = [name for name in parameters if name not in passed]
    for key, value in node.items() if parameters else ():
        if not (key.startswith("_") and key.endswith("_")) and key not in accepted:
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
