"""One file a data set: the name of one goes in; what it wants, what it holds and how its shards are made come out.

A source declares SOURCE, LICENCE, TERMS (what must be accepted first, "" if nothing), SPLITS, WANTED and a function
samples(split, **arguments), whose keywords are the names in WANTED: by argument, "FILE: what it is and where it comes
from". An argument that begins with the name of a split, as `val_questions`, is of that split alone, which is written
only if it is given; or a function held(**arguments) tells the splits that there are.
Instead of samples, tars(split, **arguments) gives tars that are used as they are.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from prefixvlm.data.sources._files import Samples, option


class Source(Protocol):
    """A module in this folder."""

    SOURCE: str
    LICENCE: str
    TERMS: str
    SPLITS: tuple[str, ...]
    WANTED: Mapping[str, str]
    samples: Callable[..., Samples]
    tars: Callable[..., Sequence[Path]]
    held: Callable[..., list[str]]


def names() -> list[str]:
    """As in `prefixvlm shards NAME`."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return [name.replace("_", "-") for name in modules if not name.startswith("_")]


def load(name: str) -> Source:
    return cast(Source, importlib.import_module(f"{__name__}.{name.replace('-', '_')}"))


def parameters(source: Source) -> dict[str, inspect.Parameter]:
    """Of its `samples` or `tars`, by argument, in the order of WANTED."""
    found = inspect.signature(source.tars if takes_tars(source) else source.samples).parameters
    return {name: found[name] for name in source.WANTED}


def takes_tars(source: Source) -> bool:
    """Whether it has tars that are used as they are."""
    return hasattr(source, "tars")


def own(source: Source, split: str) -> list[str]:
    """The arguments that are of this split alone."""
    return [name for name in source.WANTED if name.startswith(f"{split}_") and not hasattr(source, "held")]


def splits(source: Source, arguments: Mapping[str, Any]) -> list[str]:
    """The splits that these arguments are enough for. Raises ValueError if there are none."""
    if hasattr(source, "held"):
        return source.held(**arguments)
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
        if argument in wanted
        and (
            parameter.default is inspect.Parameter.empty or any(argument in own(source, each) for each in source.SPLITS)
        )
    ]
    terms = ["--accept-terms"] if source.TERMS else []
    command = " ".join(["prefixvlm shards", name, *needed, *terms, f"--out {out or f'data/{name}'}"])
    head = f"{source.SOURCE} (licence: {source.LICENCE})"
    return "\n".join([head, *(["It wants", *lines] if lines else []), f"Its shards are made with\n  {command}"])
