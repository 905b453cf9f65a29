"""The classes that a configuration may build: for each axis the subclasses of its interface, where they are defined.

A configuration may come from a checkpoint of a stranger, so a `_target_` is looked up in this table and nothing else. A
function is never built, nor a class of another axis, nor what a module merely imports.
"""

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from prefixvlm import plugins
from prefixvlm.options.static_signature import defines_class


@dataclass(frozen=True)
class Axis:
    """A place in the configuration that takes a component.

    interface: dotted name of the class whose subclasses are accepted. homes: packages whose own modules define them.
    exported: packages that export them by name, as in torch.optim.AdamW. constructor: the class method that builds a
    component from plain values, "" for the class itself. partial: the component is built later, with more arguments.
    """

    interface: str
    homes: tuple[str, ...] = ()
    exported: tuple[str, ...] = ()
    constructor: str = ""
    partial: bool = False


LIGHTNING = "lightning.pytorch"
AXES = {  # * is a name that the user chooses
    "encoder": Axis("prefixvlm.encoder.interface.ImageEncoder", ("prefixvlm.encoder",)),
    "mapper": Axis("prefixvlm.mapper.interface.Mapper", ("prefixvlm.mapper",)),
    "lm": Axis("prefixvlm.lm.interface.LanguageModel", ("prefixvlm.lm",), constructor="from_pretrained"),
    "tune.*": Axis("prefixvlm.tune.interface.Tuning", ("prefixvlm.tune",)),
    "task.*": Axis("prefixvlm.task.interface.Task", ("prefixvlm.task",)),
    "task.*.metrics.*": Axis("prefixvlm.metrics.captions.interface.CaptionMetric", ("prefixvlm.metrics.captions",)),
    "task.*.consensus": Axis("prefixvlm.task.results.consensus.Consensus", ("prefixvlm.task.results",)),
    "module": Axis(f"{LIGHTNING}.LightningModule", ("prefixvlm.training",)),
    "optim": Axis("prefixvlm.training.optim.Optim", ("prefixvlm.training",)),
    "optim.optimizer": Axis("torch.optim.Optimizer", exported=("torch.optim",), partial=True),
    "data": Axis("prefixvlm.data.datamodule.ShardDataModule", ("prefixvlm.data",)),
    "few_shot": Axis("prefixvlm.task.rows.few_shot.FewShot", ("prefixvlm.task.rows",)),
    "clip_scorer": Axis("prefixvlm.encoder.clip.Clip", ("prefixvlm.encoder",)),
    "trainer": Axis(f"{LIGHTNING}.Trainer", exported=(LIGHTNING,)),
    "trainer.strategy": Axis(
        f"{LIGHTNING}.strategies.Strategy", ("prefixvlm.training",), exported=(f"{LIGHTNING}.strategies",)
    ),
    "trainer.profiler": Axis(f"{LIGHTNING}.profilers.Profiler", exported=(f"{LIGHTNING}.profilers",)),
    "callbacks.*": Axis(f"{LIGHTNING}.Callback", ("prefixvlm.callbacks",), (f"{LIGHTNING}.callbacks",)),
    "logger.*": Axis(f"{LIGHTNING}.loggers.logger.Logger", ("prefixvlm.logger",), (f"{LIGHTNING}.loggers",)),
}


_NO_COMPONENT = "{key}._target_ is {target!r}, but {key} takes no component; remove _target_"
RENAMED = {  # in checkpoints of older versions
    "prefixvlm.lm.packaged.smollm2": "prefixvlm.lm.packaged.SmolLM2.from_pretrained",
    "prefixvlm.lm.packaged.minilm": "prefixvlm.lm.packaged.MiniLM.from_pretrained",
}


def axis_of(key: str) -> Axis | None:
    """Return the axis of a key of the configuration, None if no component stands there."""
    words = key.split(".")
    for pattern, axis in AXES.items():
        parts = pattern.split(".")
        if len(parts) == len(words) and all(part in ("*", word) for part, word in zip(parts, words, strict=True)):
            return axis
    return None


def resolve_target(key: str, target: Any) -> Any:
    """Return the class, or its constructor, that the `_target_` of a key names. Raises ValueError if none may."""
    axis = axis_of(key)
    if axis is None:
        raise ValueError(_NO_COMPONENT.format(key=key, target=target))
    text = RENAMED.get(str(target), str(target))
    name = text.removesuffix(f".{axis.constructor}") if axis.constructor else text
    component = _class_of(axis, name) if axis.constructor == "" or name != text else None
    if component is None:
        raise ValueError(_not_accepted(key, axis, text))
    return getattr(component, axis.constructor) if axis.constructor else component


def check_name(key: str, target: Any) -> None:
    """Raise ValueError for a `_target_` that no class can have, as far as sources show it without an import."""
    axis = axis_of(key)
    if axis is None:
        raise ValueError(_NO_COMPONENT.format(key=key, target=target))
    text = RENAMED.get(str(target), str(target))
    module, _, name = text.removesuffix(f".{axis.constructor}").rpartition(".")
    if module.rpartition(".")[0] in axis.homes:
        possible = not name.startswith("_") and defines_class(module, name)
    else:
        possible = module in axis.exported or plugins.defines(text)
    if not possible:
        raise ValueError(_not_accepted(key, axis, text))


# Not hydra.utils.instantiate, which calls any function and resolves interpolations: the configuration of a checkpoint
# could then run code, and read the environment by ${oc.env:TOKEN}.
def build_component(key: str, value: Any, passed: Mapping[str, Any]) -> Any:
    """Return a value of a checked configuration with the components in it built."""
    if isinstance(value, list | tuple):
        return [build_component(f"{key}[{index}]", each, {}) for index, each in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    options = {name: build_component(f"{key}.{name}", each, {}) for name, each in value.items()}
    if "_target_" not in options:
        return options
    component, later = resolve_target(key, options.pop("_target_")), options.pop("_partial_", False)
    return partial(component, **options) if later else component(**options, **passed)


def _class_of(axis: Axis, target: str) -> type | None:
    """Return the class of a dotted name if it belongs to the axis."""
    module, _, name = target.rpartition(".")
    package = module.rpartition(".")[0]
    own = package in axis.homes or plugins.defines(target)
    if not (own or module in axis.exported) or name.startswith("_"):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    if not isinstance(found, type) or not issubclass(found, _interface(axis)) or inspect.isabstract(found):
        return None
    # What a module merely imports is not its own.
    defined_here = found.__module__ == module if package in axis.homes else found.__module__.startswith(f"{module}.")
    return found if defined_here or plugins.defines(f"{found.__module__}.") else None


def _interface(axis: Axis) -> type:
    module, _, name = axis.interface.rpartition(".")
    interface: type = getattr(importlib.import_module(module), name)
    return interface


def _not_accepted(key: str, axis: Axis, target: str) -> str:
    module = target.removesuffix(f".{axis.constructor}").rpartition(".")[0]
    of = f"the {axis.constructor} of " if axis.constructor else ""
    return (
        f"{key}._target_ is {target!r}; accepted are {of}the subclasses of {axis.interface} in "
        f"{', '.join([*axis.homes, *axis.exported])} and in modules of your own, which the command line names: "
        f"plugins=[{module}]"
    )
