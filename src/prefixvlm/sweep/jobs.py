"""Reads the jobs of a sweep from its folder: options, objectives and learning curves."""

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from prefixvlm.metrics.score_kind import ScoreKind

PRUNER = "callbacks.pruner"  # set by the sweeper, with the number of each trial
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    options: the overrides of its command. state: done, pruned or unfinished. objective: its returned values by name.
    kinds: directions of the scores, known when the run has ended. curves: (step, value) pairs by metric.
    """

    name: str
    options: Mapping[str, str]
    state: str
    objective: Mapping[str, float]
    lower_is_better: bool
    kinds: Mapping[str, ScoreKind] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)

    def value(self, metric: str) -> float | None:
        """Return the objective of this name, or else the last logged value, or None."""
        if metric in self.objective:
            return self.objective[metric]
        return self.curves[metric][-1][1] if self.curves.get(metric) else None


def read_jobs(folder: Path) -> list[Job]:
    """Return all runs in a folder, in the order of their numbers. Raises ValueError if there are none."""
    paths = sorted(folder.rglob(".hydra/overrides.yaml"), key=lambda path: _by_number(str(path.relative_to(folder))))
    if not paths:
        raise ValueError(f"{folder} holds no runs; name the folder of a sweep, as outputs/sweep/DATE")
    return [_job(path.parents[1], folder) for path in paths]


def _by_number(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]


def _job(run: Path, folder: Path) -> Job:
    overrides = yaml.safe_load((run / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")) or []
    config = yaml.safe_load((run / ".hydra" / "config.yaml").read_text(encoding="utf-8")) or {}
    path = run / "objective.json"  # written when a run has ended
    written: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"value": None}
    values = written["value"] if isinstance(written["value"], list) else [written["value"]]
    names = config.get("objectives") or [config.get("monitor") or "value"]
    return Job(
        name=str(run.relative_to(folder)),
        options=dict(option for option in map(_option, overrides) if not option[0].startswith(PRUNER)),
        state="pruned" if written.get("pruned") else "done" if path.is_file() else "unfinished",
        objective={name: value for name, value in zip(names, values, strict=False) if value is not None},
        lower_is_better=config.get("monitor_mode", "min") == "min",
        kinds={name: ScoreKind(higher) for name, higher in written.get("higher_is_better", {}).items()},
        curves=_curves(run),
    )


def _option(override: str) -> tuple[str, str]:
    """Return key and value without the signs, quotes and escapes of Hydra's grammar."""
    key, _, value = override.partition("=")
    quoted = re.fullmatch(r"(['\"])(.*)\1", value, re.DOTALL)
    text = re.sub(r"\\(.)", r"\1", quoted[2] if quoted else value)
    return key.lstrip("+~"), f"{float(text):.5g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text) else text


def _curves(run: Path) -> dict[str, Points]:
    """Return the logged values by name, from metrics.csv or else from the last checkpoint."""
    curves: dict[str, Points] = {}
    files = sorted(run.glob("csv/**/metrics.csv"), key=lambda path: _by_number(str(path)))
    for path in files:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in ("step", "epoch"):
                        curves.setdefault(name, []).append((float(row["step"]), float(text)))
    if not files:  # the run had another logger
        for record in _history(run):
            curves.setdefault(record["name"], []).append((record["step"], record["value"]))
    finite = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    return {name: points for name, points in finite.items() if points}


def _history(run: Path) -> Sequence[dict[str, Any]]:
    from prefixvlm.training.checkpoint import history
    from prefixvlm.training.checkpoint_file import LAST, load

    checkpoint = run / "checkpoints" / LAST
    return history(load(checkpoint))["records"] if checkpoint.is_file() else []
