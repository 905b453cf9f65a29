"""Types of options with their ranges, for the annotations of constructors, as `batch_size: Positive = 32`."""

import math
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin


@dataclass(frozen=True)
class Range:
    """Finite numbers from low to high. above, below: without low, without high."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        from_low = value > self.low if self.above else value >= self.low
        return math.isfinite(value) and from_low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"of {self.low:g} or more"
        return f"from {'above ' if self.above else ''}{self.low:g} to {'below ' if self.below else ''}{self.high:.15g}"


Positive = Annotated[int, Range(1)]
NonNegative = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, above=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
BelowOne = Annotated[float, Range(0, 1, below=True)]
# Limits above, so that a slip of the hand ends in a sentence and not in an allocator.
Size = Annotated[int, Range(1, 65_536)]  # of widths and sides
Length = Annotated[int, Range(1, 8192)]  # of prefixes, in embeddings
Layers = Annotated[int, Range(1, 1000)]
Workers = Annotated[int, Range(0, 1024)]
Bins = Annotated[int, Range(2, 65_536)]
Seed = Annotated[int, Range(0, 2**32 - 1)]  # as torch and numpy accept it

_Share = Positive | Fraction  # of batches: a number or a fraction of them
_MinusOne = Annotated[int, Range(-1)]
_EARLY_STOPPING: dict[str, Any] = {"patience": NonNegative}
_CHECKPOINT: dict[str, Any] = {"save_top_k": _MinusOne}
# What the annotations of other packages do not say. config.check_ranges refuses half precision of the trained weights.
STATED: dict[str, dict[str, Any]] = {
    "lightning.pytorch.Trainer": {
        "num_nodes": Positive,
        "precision": Literal[
            "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true", 16, 32, 64, "16", "32", "64", "bf16"
        ],
        "max_steps": _MinusOne,
        "max_epochs": _MinusOne | None,
        "min_steps": NonNegative | None,
        "min_epochs": NonNegative | None,
        "gradient_clip_val": NonNegativeFloat | None,
        "accumulate_grad_batches": Positive,
        "val_check_interval": _Share | None,
        "check_val_every_n_epoch": Positive | None,
        "limit_train_batches": _Share | None,
        "limit_val_batches": _Share | None,
        "limit_test_batches": _Share | None,
        "log_every_n_steps": Positive | None,
        "num_sanity_val_steps": _MinusOne | None,
    },
    # Ours inherit the constructors of Lightning's.
    "lightning.pytorch.callbacks.EarlyStopping": _EARLY_STOPPING,
    "prefixvlm.callbacks.early_stopping.EarlyStopping": _EARLY_STOPPING,
    "lightning.pytorch.callbacks.ModelCheckpoint": _CHECKPOINT,
    "prefixvlm.callbacks.best_checkpoint.BestCheckpoint": _CHECKPOINT,
    "prefixvlm.callbacks.top_k.TopK": _CHECKPOINT,
    "lightning.pytorch.callbacks.TQDMProgressBar": {"refresh_rate": NonNegative},
    "torch.optim.SGD": {"momentum": NonNegativeFloat},
}
NAMES = {int: "an int", float: "a float", bool: "true or false", str: "a text", NoneType: "null"}


def check_value(key: str, value: Any, annotation: Any) -> None:
    """Raise ValueError for a value of another type than annotated, or outside its range.

    An annotation of other types than those of NAMES, their ranges and Literal is not checked.
    """
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    accepted = [_description(kind) for kind in kinds]
    if None not in accepted and not any(_fits(value, kind) for kind in kinds):
        raise ValueError(f"{key} is {value!r}; it must be {' or '.join(map(str, accepted))}")


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    name, *ranges = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    fits = type(value) is name or (type(value) is int and name is float)
    return fits and all(value in each for each in ranges)


def _description(kind: Any) -> str | None:
    """Return what an annotation accepts, None if it is not checked."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(dict.fromkeys(map(str, get_args(kind))))}"
    name, *ranges = get_args(kind) if get_origin(kind) is Annotated else (kind,)
    return " ".join([NAMES[name], *map(str, ranges)]) if name in NAMES else None
