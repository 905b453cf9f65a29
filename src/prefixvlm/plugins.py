"""Modules of the user's own, whose classes a configuration may name and whose data sets `prefixvlm shards` knows.

They come from the command line (`plugins=[my_package.mappers]`, `prefixvlm --plugins my_package.mappers`) or from
installed packages with entry points of the group `prefixvlm.plugins`; never from a checkpoint or from data, because
importing a module runs it.
"""

import importlib
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType

GROUP = "prefixvlm.plugins"

_MISSING = (
    "plugins names {name!r}, which cannot be imported ({reason}); install it, or set PYTHONPATH to the folder that "
    "holds it"
)
_named: set[str] = set()  # by the command line of this process


def announce(modules: Sequence[str]) -> None:
    """Accept what modules define before they are imported. Raises ValueError if there is no such package."""
    for name in modules:
        top = name.partition(".")[0]
        if top not in sys.modules and find_spec(top) is None:
            raise ValueError(_MISSING.format(name=name, reason=f"No module named {top!r}"))
        _named.add(name)


def enable(modules: Sequence[str]) -> None:
    """Import modules and accept what they define. Raises ValueError if one cannot be imported."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(_MISSING.format(name=name, reason=error)) from error
        _named.add(name)


def module_names() -> list[str]:
    """The modules that were named and those of installed packages."""
    return sorted(_named | _installed())


@cache  # reading the metadata of all installed packages takes tens of milliseconds
def _installed() -> frozenset[str]:
    return frozenset(entry.value.partition(":")[0] for entry in entry_points(group=GROUP))


def defines(target: str) -> bool:
    """Whether a dotted name lies in a plug-in: in the module itself or, where it is a package, below it."""
    return any(target.startswith(f"{name}.") for name in module_names())


def modules() -> list[ModuleType]:
    """The plug-ins, imported."""
    return [importlib.import_module(name) for name in module_names()]
