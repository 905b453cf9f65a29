"""Run a sequence of commands that can be interrupted: a finished stage is not run again."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixvlm import strict_json
from prefixvlm.atomic import write_text


def run_stages(stages: Mapping[str, Sequence[str]], out: Path, again: str) -> dict[str, float]:
    """Run the stages that `out`/stages.json does not record yet, and return the seconds of each.

    again: command that continues, for messages. Exits with the exit code of a stage that fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    seconds = read_json(out / "stages.json")
    for number, (name, command) in enumerate(stages.items(), 1):
        print(f"== {number}/{len(stages)} {name}{' (done before)' if name in seconds else ''}", flush=True)
        if name in seconds:
            continue
        start = time.perf_counter()
        try:
            code = subprocess.run(command).returncode
        except KeyboardInterrupt:
            code = 130
        if code:
            print(f"Stage {name} ended with code {code}; `{again}` continues from there.", file=sys.stderr)
            sys.exit(code)
        seconds[name] = round(time.perf_counter() - start, 1)
        write_json(out / "stages.json", seconds)
    return seconds


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object; empty if there is no such file."""
    return strict_json.read_json(path, dict[str, Any], "a JSON object") if path.exists() else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")
