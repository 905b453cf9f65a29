"""Reads JSON that anyone may have written, with limits and a schema."""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec

MAX_BYTES = 2**30  # annotations of the largest data sets have hundreds of megabytes
MAX_DEPTH = 100  # Python's stack holds some 900; what parses there may overflow where it is printed or walked
MAX_DIGITS = 300  # a float holds 308
T = TypeVar("T")


def read_json(path: Path, schema: type[T], what: str, max_bytes: int = MAX_BYTES) -> T:
    """Return the content of a JSON file. schema: a type or a dataclass, or Any for whatever it is.

    Raises ValueError, as "PATH is not WHAT (REASON)", or OSError if the file cannot be opened.
    """
    try:
        return parse_json(read_limited(path, max_bytes), schema)
    except ValueError as error:
        raise ValueError(f"{path} is not {what} ({error})") from error


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file. Raises ValueError if there are more, and OSError if it cannot be opened."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError("a pipe or a device")  # which would be read without end
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it has more than {max_bytes} bytes")
    return data


def parse_json(data: bytes | str, schema: type[T]) -> T:
    """Return the content of JSON text, as read_json. Raises ValueError with the reason and the field."""
    try:
        # utf-8-sig: editors on Windows write a byte order mark, which json refuses.
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        content = json.loads(text, parse_int=_integer)
        if text.count("[") + text.count("{") > MAX_DEPTH:
            _check_depth(content)
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep") from error
    return convert(content, schema)


def convert(content: Any, schema: type[T]) -> T:
    """Return plain content as the schema. Raises ValueError with the reason and the field."""
    try:
        return content if schema is Any else msgspec.convert(content, schema)
    except msgspec.ValidationError as error:  # its path to the field begins with $
        raise ValueError(str(error).replace("`$.", "`")) from error


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:  # float() of it would raise OverflowError
        raise ValueError(f"a number has {len(text)} digits, {text[:10]}...; at most {MAX_DIGITS} are read")
    return int(text)


def _check_depth(content: Any) -> None:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
