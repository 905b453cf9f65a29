"""Every numeric option of conf/ has a range, which is checked before anything is built."""

import math
from pathlib import Path
from typing import Literal

import pytest
from omegaconf import OmegaConf

from prefixvlm.options.component_check import check
from prefixvlm.options.ranges import BelowOne, Fraction, NonNegative, Positive, PositiveFloat, Seed, check_value

CONF = Path(__file__).parents[2] / "conf"
ANY_NUMBER = {
    "task.regression.mean": "the mean of labels",
    "trainer.devices": "checked with the machine, by check_devices",
}


def composed(path):
    """The node of a choice, with those that it inherits from."""
    node = OmegaConf.load(path)
    parents = node.pop("defaults", []) if OmegaConf.is_dict(node) else []
    below = [composed(path.with_name(f"{name}.yaml")) for name in parents if name != "_self_"]
    return OmegaConf.merge(*below, node)


def options():
    """Yield by its dotted name each numeric option of a component, and the component's node without interpolations."""

    def walk(name, node):
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if "_target_" in node and type(value) in (int, float):
                yield f"{name}.{key}", {key: value, "_target_": node["_target_"]}
            yield from walk(f"{name}.{key}", value)

    found = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        axis = path.parent.name
        if axis not in ("experiment", "debug", "hydra", "benchmark"):
            found |= dict(walk(axis, OmegaConf.to_container(composed(path))))
    found |= dict(walk("few_shot", OmegaConf.to_container(OmegaConf.load(CONF / "eval.yaml"))["few_shot"]))
    return found


OPTIONS = options()


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_a_numeric_option_has_a_range(name):
    node, (place, _, key) = OPTIONS[name], name.rpartition(".")
    for early in (False, True):
        check(place, node, before_imports=early)
        for wrong in (-(10**9), math.nan, math.inf):
            if name not in ANY_NUMBER:
                with pytest.raises(ValueError, match=rf"^{name} is {wrong}; it must be"):
                    check(place, node | {key: wrong}, before_imports=early)


def test_the_options_are_many():
    assert len(OPTIONS) > 60


@pytest.mark.parametrize(
    ("annotation", "right", "wrong", "said"),
    [
        (Positive, [1, 10**12], [0, -1, 1.0, True, "1", None], "an int of 1 or more"),
        (Positive | None, [None, 3], [0], "an int of 1 or more or null"),
        (NonNegative, [0], [-1], "an int of 0 or more"),
        (PositiveFloat, [1, 1e-9], [0, 0.0, -1.5, math.inf], "a float above 0"),
        (Fraction, [0, 0.5, 1.0], [1.1, -0.1, math.nan], "a float from 0 to 1"),
        (BelowOne, [0, 0.999], [1, 1.0], "a float from 0 to below 1"),
        (Seed, [0, 2**32 - 1], [-1, 2**32], "an int from 0 to 4294967295"),
        (Positive | Fraction, [5, 0.5, 0], [1.5, -1], "an int of 1 or more or a float from 0 to 1"),
        (Literal["a", 1], ["a", 1], ["b", 1.0, True], "one of a, 1"),
        (int | list[int], ["anything"], [], ""),
    ],
)
def test_a_value_fits_its_annotation_or_is_refused_with_it(annotation, right, wrong, said):
    for value in right:
        check_value("key", value, annotation)
    for value in wrong:
        with pytest.raises(ValueError, match=rf"^key is .*; it must be {said}$"):
            check_value("key", value, annotation)
