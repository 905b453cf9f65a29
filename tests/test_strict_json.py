"""JSON from outside: what it holds, or one sentence with the file and the field."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from prefixvlm import strict_json
from prefixvlm.strict_json import parse_json, read_json


@dataclass
class Point:
    x: int
    names: list[str]


@pytest.mark.parametrize("data", [b'{"x": 1, "names": ["a"]}', b'\xef\xbb\xbf{"names": ["a"], "x": 1, "y": NaN}'])
def test_a_schema(data: bytes) -> None:
    assert parse_json(data, Point) == Point(1, ["a"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "'utf-8' codec can't decode"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"x": 1}', "missing required field `names`"),
        (b'{"x": 1.5, "names": []}', "Expected `int`, got `float` - at `x`"),
        (b'{"x": NaN, "names": []}', "Expected `int`, got `float` - at `x`"),
        (b'{"x": true, "names": []}', "Expected `int`, got `bool` - at `x`"),
        (b'{"x": 1, "names": ["a", 2]}', "Expected `str`, got `int` - at `names[1]`"),
        (b'{"x": 1%s, "names": []}' % (b"0" * 400), "a number has 401 digits, 1000000000...; at most 300"),
        (b'{"x": -1%s, "names": []}' % (b"0" * 5000), "digits"),
        (b'{"x": 1, "names": %s}' % (b"[" * 200 + b"]" * 200), "nested more than 100 levels"),
        (b'{"x":' * 10**5, "nested more than 100 levels"),
    ],
)
def test_what_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.json is not a point \(") as error:
        read_json(tmp_path / "a.json", Point, "a point")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_plain_content_has_the_limits_too() -> None:
    assert parse_json(b"[" * 100 + b"]" * 100, Any) is not None
    assert len(parse_json(json.dumps([[1]] * 1000), Any)) == 1000
    for data in (b"[" * 101 + b"]" * 101, b"1" * 301):
        with pytest.raises(ValueError, match="nested|digits"):
            parse_json(data, Any)


def test_a_file_that_is_large_or_has_no_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"a.json is not a list \(it has more than 5 bytes\)"):
        read_json(tmp_path / "a.json", list[int], "a list", max_bytes=5)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"is not a list \(a pipe or a device\)"):
            read_json(path, list[int], "a list")
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(OSError, match=path.name):
            read_json(path, list[int], "a list")
    assert strict_json.MAX_BYTES == 2**30
