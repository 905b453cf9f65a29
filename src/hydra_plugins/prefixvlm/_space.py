"""The search space that Hydra's overrides describe.

choice(), a,b,c and glob() are categorical; range() has integers or steps; interval() is continuous, or integers as
int(interval()). tag(log, ...) makes range() and interval() logarithmic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


@dataclass(frozen=True)
class Space:
    """A search space. fixed: overrides of one value. free: the distributions of the other keys, which include `+`."""

    fixed: Sequence[str]
    free: Mapping[str, "BaseDistribution"]

    def overrides(self, params: Mapping[str, Any]) -> list[str]:
        """Return all overrides of a job with these parameters."""
        return [*self.fixed, *self.chosen(params)]

    def chosen(self, params: Mapping[str, Any]) -> list[str]:
        """Return the overrides of the free keys."""
        # The values of a choice are the texts of the command, quotes included.
        return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in params.items()]


def space(overrides: Sequence[Override]) -> Space:
    """Return the search space; a later override of a key replaces an earlier one. Raises ValueError if none is free."""
    last = {override.get_key_element().lstrip("+"): override for override in overrides}
    fixed = [o.input_line or "" for o in last.values() if not o.is_sweep_override()]
    free = {o.get_key_element(): _distribution(o) for o in last.values() if o.is_sweep_override()}
    if not free:
        raise ValueError("there is nothing to search; give a key more than one value, as optim.lr=interval(1e-5,1e-2)")
    return Space(fixed, free)


def _distribution(override: Override) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log="log" in value.tags)
        return FloatDistribution(value.start, value.end, log="log" in value.tags)
    if isinstance(value, RangeSweep):
        steps = sorted(value.range())
        if not steps:
            raise ValueError(f"{override.input_line} is empty")
        if all(isinstance(step, int) for step in steps):
            log = "log" in value.tags
            return IntDistribution(steps[0], steps[-1], log=log, step=1 if log else abs(int(value.step)))
        return FloatDistribution(steps[0], steps[-1], step=abs(float(value.step)))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
