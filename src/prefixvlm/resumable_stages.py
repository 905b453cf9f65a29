"""Commands go in; each is run once, however often the whole is interrupted and started again."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def run_stages(stages: Mapping[str, Sequence[str]], out: Path, again: str) -> dict[str, float]:
    """The seconds that each took; `out`/stages.json remembers them.

    again: the command that goes on. Exits with the code of a stage that fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    seconds = read_json(out / "stages.json")
    for number, (name, command) in enumerate(stages.items(), 1):
        print(f"== {number}/{len(stages)} {name}{' (done before)' if name in seconds else ''}", flush=True)
        if name in seconds:
            continue
        started = time.perf_counter()
        try:
            code = subprocess.run(command).returncode
        except KeyboardInterrupt:
            code = 130
        if code:
            print(f"Stage {name} ended with code {code}; `{again}` goes on from there.", file=sys.stderr)
            sys.exit(code)
        seconds[name] = round(time.perf_counter() - started, 1)
        write_json(out / "stages.json", seconds)
    return seconds


def read_json(path: Path) -> dict[str, Any]:
    """Empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
