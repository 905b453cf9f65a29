"""One file a data set: the name of one goes in; what it wants, what it holds and how its shards are made come out.

A source declares SOURCE, LICENCE, SPLITS, WANTED and a function samples(split, **arguments), whose keywords are the
names in WANTED: by argument, "FILE: what it is and where it comes from". An argument that begins with the name of a
split, as `val_questions`, is of that split alone, which is written only if it is given.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, cast


class Source(Protocol):
    """A module in this folder."""

    SOURCE: str
    LICENCE: str
    SPLITS: tuple[str, ...]
    WANTED: Mapping[str, str]
    samples: Callable[..., Iterable[tuple[str, dict[str, bytes] | ValueError]]]


def names() -> list[str]:
    """As in `prefixvlm shards NAME`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return [name.replace("_", "-") for name in modules if not name.startswith("_")]


def load(name: str) -> Source:
    return cast(Source, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def parameters(source: Source) -> dict[str, inspect.Parameter]:
    """Of its `samples`, by argument, in the order of WANTED."""
    found = inspect.signature(source.samples).parameters
    return {name: found[name] for name in source.WANTED}


def option(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"


def own(source: Source, split: str) -> list[str]:
    """The arguments that are of this split alone."""
    return [name for name in source.WANTED if name.startswith(f"{split}_")]


def splits(source: Source, arguments: Mapping[str, Any]) -> list[str]:
    """The splits that these arguments are enough for. Raises ValueError if there are none."""
    found = [
        split
        for split in source.SPLITS
        if not own(source, split) or any(arguments.get(name) is not None for name in own(source, split))
    ]
    if not found:
        firsts = ", ".join(option(own(source, split)[0]) for split in source.SPLITS)
        raise ValueError(f"there is nothing to write; give one of {firsts}")
    return found


def how_to_make(name: str, split: str | None = None, out: str = "") -> str:
    """A few lines for the user: what the source wants and the command that makes its shards; split: only for this."""
    source = load(name)
    others = {other for each in source.SPLITS if each != split for other in own(source, each)} if split else set()
    wanted = {argument: text for argument, text in source.WANTED.items() if argument not in others}
    lines = [f"  {option(argument)} {text}" for argument, text in wanted.items()]
    needed = [
        f"{option(argument)} {wanted[argument].partition(': ')[0]}"
        for argument, parameter in parameters(source).items()
        if argument in wanted and (parameter.default is inspect.Parameter.empty or argument.startswith(source.SPLITS))
    ]
    command = " ".join(["prefixvlm shards", name, *needed, f"--out {out or f'data/{name}'}"])
    head = f"{source.SOURCE} (licence: {source.LICENCE})"
    return "\n".join([head, *(["It wants", *lines] if lines else []), f"Its shards are made with\n  {command}"])
