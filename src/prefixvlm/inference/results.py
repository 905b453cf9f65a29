"""Results of `prefixvlm predict`, written as they come: lines, JSONL or CSV."""

import csv
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

COLUMNS = ("id", "image", "asked", "prediction")
SUFFIXES = (".jsonl", ".csv")


class Results:
    """Writes results to a file, or lines to standard output.

    path: ends in .jsonl or .csv; None for standard output. resume: go on with a file, without what is in it.
    done: ids and texts that the file already has.
    """

    def __init__(self, path: Path | None, resume: bool = False) -> None:
        self.path, self.done = path, set[tuple[str, str]]()
        self.file: TextIO | None = None
        if path is None:
            return
        if path.suffix not in SUFFIXES or not path.parent.is_dir():
            raise ValueError(f"--results is {path}; it must end in .jsonl or .csv and be in a folder that exists")
        if path.exists() and not resume:
            raise ValueError(f"{path} exists; give --resume to go on with it, or another --results")
        whole = _without_cut_line(path) if path.exists() else ""
        self.done = {(str(each["id"]), str(each["asked"])) for each in self._parse(whole)}

    def write(self, line: str, record: Mapping[str, Any]) -> None:
        """Write a result. line: as it is printed. record: with COLUMNS, of which CSV has no more."""
        if self.path is None:
            print(line, flush=True)
            return
        if self.file is None:  # not before there is a result: a command that fails leaves no file
            self.file = self.path.open("a", encoding="utf-8", newline="")
            if self.path.suffix == ".csv" and not self.path.stat().st_size:
                csv.writer(self.file).writerow(COLUMNS)
        if self.path.suffix == ".csv":
            csv.writer(self.file).writerow([record[name] for name in COLUMNS])
        else:
            self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.file.flush()  # a kill loses no more than the line that is being written

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def _parse(self, text: str) -> list[dict[str, Any]]:
        assert self.path is not None, "standard output has nothing to parse"
        try:
            if self.path.suffix == ".csv":
                rows = list(csv.DictReader(io.StringIO(text, newline="")))
                return [{name: row[name] for name in COLUMNS} for row in rows]
            lines = text.split("\n")[:-1]  # not splitlines(), which also splits at U+2028 in a text
            return [{name: row[name] for name in COLUMNS} for row in map(json.loads, lines)]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} has no results of predict; give another --results") from error


def _without_cut_line(path: Path) -> str:
    """Remove what a kill has left of the last line of a file, and return the rest."""
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if whole != data:
        print(f"the last line of {path} was cut; it is predicted again", file=sys.stderr)
        with path.open("r+b") as file:
            file.truncate(len(whole))
    return whole.decode("utf-8")
