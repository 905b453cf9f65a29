"""Signatures read from source are those of the imported components."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from hydra.utils import get_object

from prefixvlm.options.component_check import parameters_of
from prefixvlm.options.static_signature import static_parameters

CONF = Path(__file__).parents[2] / "conf"
TARGETS = {target for path in CONF.rglob("*.yaml") for target in re.findall(r"_target_: ([\w.]+)", path.read_text())}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_it_is_the_signature_of_the_imported_component(target):
    static, real = static_parameters(target), parameters_of(get_object(target))
    assert list(static) == list(real)
    for name, parameter in static.items():
        annotation = parameter.annotation
        # Any stands for every type that is not of numbers, texts and their choices.
        assert annotation in (real[name].annotation, Any) or Any in get_args(annotation)


SOURCE = """
from dataclasses import dataclass
from typing import Literal, Optional, Union
from elsewhere import missing

class Base:
    def __init__(self, width: "int", kind: Literal["a", "b"] = "a", *, rate: Optional[float] = None) -> None: ...
    @classmethod
    def load(cls, name: Union[str, None]): ...

class Heir(Base): ...
class Second(Base, Heir): ...
class Lost(missing.Base): ...
class Meta(Base, metaclass=type): ...
class Open(Base):
    def __init__(self, **options: int) -> None: ...
@dataclass
class Record:
    width: int
@missing
def wrapped(a: int): ...
def function(first: int, later: bool = False): ...
"""


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Heir", ["width", "kind", "rate"]),
        ("Heir.load", ["name"]),
        ("function", ["first", "later"]),
        *((name, []) for name in ("Second", "Lost", "Meta", "Open", "Record", "wrapped", "Nothing", "Heir.nothing")),
    ],
)
def test_what_a_source_does_not_show_is_left_to_the_later_check(monkeypatch, tmp_path, name, expected):
    (tmp_path / "my_own_components.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    assert list(static_parameters(f"my_own_components.{name}")) == expected


@pytest.mark.parametrize(
    "target", ["", "no_such_package.A", "sys.exit", "prefixvlm", "prefixvlm.mapper", "numpy.array"]
)
def test_a_name_that_is_not_found_has_no_parameters(target):
    assert static_parameters(target) == {}
