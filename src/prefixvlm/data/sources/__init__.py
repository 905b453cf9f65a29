"""Data sets that `prefixvlm shards NAME` makes shards of, one module each.

A module declares SOURCE, LICENCE, TERMS (to be accepted first, "" if there are none), SPLITS, ARGUMENTS and a function
samples(split, **arguments). ARGUMENTS describes each keyword of that function as "FILE: what it is and where it comes
from". An argument that begins with the name of a split, as `val_questions`, belongs to that split: it is written only
if the argument is given. A module whose splits depend on its data has a function available_splits(**arguments) instead.
A module of existing tars has a function tars(split, **arguments) instead of samples.
A module of data that grows has a function version(**arguments), whose text the manifest has.
Modules of the user's own are named by plug-ins, see prefixvlm/plugins.py.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from prefixvlm import plugins
from prefixvlm.data.sources._files import Samples, option


class DatasetSource(Protocol):
    """A module in this folder, or a plug-in."""

    SOURCE: str
    LICENCE: str
    TERMS: str
    SPLITS: tuple[str, ...]
    ARGUMENTS: Mapping[str, str]
    samples: Callable[..., Samples]
    tars: Callable[..., Sequence[Path]]
    available_splits: Callable[..., list[str]]
    version: Callable[..., str]


def names() -> list[str]:
    """Return the names of the sources in this folder, as in `prefixvlm shards NAME`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return [name.replace("_", "-") for name in modules if not name.startswith("_")]


def plugin_names() -> list[str]:
    """Return the names of the sources among the plug-ins: the last part of each module's name."""
    return sorted(_plugins().keys() - set(names()))


def load(name: str) -> DatasetSource:
    """Return the source of a name, with hyphens or underscores."""
    name = name.replace("_", "-")
    if name in names():
        return cast(DatasetSource, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))
    return cast(DatasetSource, _plugins()[name])


def _plugins() -> dict[str, ModuleType]:
    found = [module for module in plugins.modules() if hasattr(module, "ARGUMENTS") and hasattr(module, "SPLITS")]
    return {module.__name__.rpartition(".")[2].replace("_", "-"): module for module in found}


def parameters(source: DatasetSource) -> dict[str, inspect.Parameter]:
    """Return the parameters of `samples` or `tars` by name, in the order of ARGUMENTS."""
    signature = inspect.signature(source.tars if provides_tars(source) else source.samples)
    return {name: signature.parameters[name] for name in source.ARGUMENTS}


def provides_tars(source: DatasetSource) -> bool:
    """Return whether the source has tars that are linked to instead of samples that are written."""
    return hasattr(source, "tars")


def split_arguments(source: DatasetSource, split: str) -> list[str]:
    """Return the arguments that belong to this split only."""
    if hasattr(source, "available_splits"):
        return []
    return [name for name in source.ARGUMENTS if name.startswith(f"{split}_")]


def splits(source: DatasetSource, arguments: Mapping[str, Any]) -> list[str]:
    """Return the splits that can be written with these arguments. Raises ValueError if there are none."""
    if hasattr(source, "available_splits"):
        return source.available_splits(**arguments)
    available = []
    for split in source.SPLITS:
        own = split_arguments(source, split)
        if not own or any(arguments.get(name) is not None for name in own):
            available.append(split)
    if not available:
        options = ", ".join(option(split_arguments(source, split)[0]) for split in source.SPLITS)
        raise ValueError(f"there is nothing to write; give one of {options}")
    return available


def how_to_make(name: str, split: str | None = None, out: str = "") -> str:
    """Return instructions for the user: the arguments of a source and the command that makes its shards.

    split: only the arguments that this split needs.
    """
    source = load(name)
    of_splits = {each: split_arguments(source, each) for each in source.SPLITS}
    others = {argument for each in source.SPLITS if split and each != split for argument in of_splits[each]}
    arguments = {argument: text for argument, text in source.ARGUMENTS.items() if argument not in others}
    lines = [f"  {option(argument)} {text}" for argument, text in arguments.items()]
    needed = [
        f"{option(argument)} {arguments[argument].partition(': ')[0]}"
        for argument, parameter in parameters(source).items()
        if argument in arguments
        and (parameter.default is inspect.Parameter.empty or any(argument in own for own in of_splits.values()))
    ]
    terms = ["--accept-terms"] if source.TERMS else []
    command = " ".join(["prefixvlm shards", name, *needed, *terms, f"--out {out or f'data/{name}'}"])
    head = f"{source.SOURCE} (licence: {source.LICENCE})"
    return "\n".join([head, *(["It needs", *lines] if lines else []), f"Its shards are made with\n  {command}"])
