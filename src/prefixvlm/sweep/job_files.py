"""The options and the log of a job of a sweep. Each file may be damaged."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from prefixvlm.strict_json import convert, read_limited

LOG = "job.log"
MAX_YAML = 2**20  # bytes
_ERROR = re.compile(r"error: |[\w.]*(Error|Exception)\b")
T = TypeVar("T")


@dataclass(frozen=True)
class Monitored:
    """What a run is compared by, of its configuration."""

    monitor: str | None = None
    monitor_mode: Literal["min", "max"] = "min"
    objectives: list[str] | None = None

    @property
    def names(self) -> list[str]:
        return self.objectives or [self.monitor or "value"]


def read_yaml(path: Path, schema: type[T]) -> T:
    """Return the content of a file of .hydra. Raises ValueError, with the file and the field, or OSError."""
    try:
        return convert(yaml.safe_load(read_limited(path, MAX_YAML).decode()), schema)
    except OSError:
        raise
    except Exception as error:  # on a wrong tag, as `!!bool x`, yaml raises KeyError, AttributeError and others
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not that of a run ({reason})") from error


def last_lines(log: Path) -> list[str]:
    """Return the last lines of a log that are not blank, the parts of a progress bar as lines of their own."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 80_000))
        text = file.read().decode(errors="replace")
    return [line.strip() for line in re.split(r"[\r\n]+", text[-20_000:]) if line.strip()]


def last_error(lines: list[str]) -> str | None:
    """Return the last line of a log that is the message of an error, None if there is none."""
    return next((line[:300] for line in reversed(lines) if _ERROR.match(line)), None)


def plain(value: Any) -> str:
    """Return text that a terminal and a plot can show: line breaks, control characters and half letters as escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
