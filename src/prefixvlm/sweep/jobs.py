"""Reads the jobs of a sweep from its folder: options, objectives and learning curves."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prefixvlm.metrics.score_kind import ScoreKind
from prefixvlm.sweep.job_files import (
    LOG,
    Monitored,
    last_error,
    last_lines,
    plain,
    read_yaml,
)
from prefixvlm.training.objective import OBJECTIVE, Objective, read_objective

PRUNER = "callbacks.pruner"  # set by the sweeper, with the number of each trial
MAX_VALUE = 1e100  # the square of a larger one is no float
RECENT = 20  # lines at the end of a log in which an error is why the job has ended; a job started again writes more
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Job:
    """A run of a sweep.

    options: the overrides of its command. state: done, pruned, failed or unfinished. objective: its returned values by
    name. kinds: directions of the scores, known when the run has ended. curves: (step, value) pairs by metric.
    problem: why it failed, or which of its files is damaged.
    """

    name: str
    options: Mapping[str, str]
    state: str
    objective: Mapping[str, float]
    lower_is_better: bool
    kinds: Mapping[str, ScoreKind] = field(default_factory=dict)
    curves: Mapping[str, Points] = field(default_factory=dict)
    problem: str = ""

    def value(self, metric: str) -> float | None:
        """Return the objective of this name, or else the last logged value, or None."""
        if metric in self.objective:
            return self.objective[metric]
        return self.curves[metric][-1][1] if self.curves.get(metric) else None


def read_jobs(folder: Path) -> tuple[list[Job], dict[str, str]]:
    """Return all runs in a folder, in the order of their numbers, and by name why others cannot be read.

    Raises ValueError if there are none.
    """
    found = {path.parents[1] for path in folder.rglob(".hydra/overrides.yaml")}
    found |= {path.parent for name in (".hydra", OBJECTIVE, LOG) for path in folder.rglob(name)}
    found |= {path for path in folder.glob("*") if path.name.isdecimal()}  # Hydra names the jobs by their numbers
    jobs, damaged = list[Job](), dict[str, str]()
    for run in sorted(found, key=lambda path: _by_number(str(path.relative_to(folder)))):
        name = plain(run.relative_to(folder))
        try:
            jobs.append(_with_curves(_job(run, name), run))
        except (ValueError, OSError) as error:
            damaged[name] = _sentence(error)
    if not found:
        raise ValueError(f"{folder} holds no runs; name the folder of a sweep, as outputs/sweep/DATE")
    if not jobs:
        name, problem = next(iter(damaged.items()))
        raise ValueError(f"{folder} holds no run that can be read; of {len(damaged)} the first is {name}: {problem}")
    return jobs, damaged


def _sentence(error: ValueError | OSError) -> str:
    return plain(f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else error)


def _by_number(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


def _job(run: Path, name: str) -> Job:
    options = dict(map(_option, read_yaml(run / ".hydra" / "overrides.yaml", list[str])))
    monitored = read_yaml(run / ".hydra" / "config.yaml", Monitored)
    written = read_objective(run)  # when a run has ended
    lines = last_lines(run / LOG) if written is None and (run / LOG).is_file() else []
    error = last_error(lines[-RECENT:])
    objective = written or Objective(None)
    values = zip(monitored.names, objective.values, strict=False)
    return Job(
        name=name,
        options={key: value for key, value in options.items() if not key.startswith(PRUNER)},
        state="pruned" if objective.pruned else "done" if written else "failed" if error else "unfinished",
        objective={plain(name): value for name, value in values if _is_usable(value)},
        lower_is_better=monitored.monitor_mode == "min",
        kinds={plain(name): ScoreKind(higher) for name, higher in objective.higher_is_better.items()},
        problem=plain((error or "").removeprefix("error: ")),
    )


def _with_curves(job: Job, run: Path) -> Job:
    try:
        return replace(job, curves=_curves(run))
    except (ValueError, OSError) as error:
        return replace(job, problem=f"{job.problem} It has no curves: {_sentence(error)}".strip())


def _is_usable(value: float) -> bool:
    return abs(value) < MAX_VALUE  # and not NaN


def _option(override: str) -> tuple[str, str]:
    """Return key and value without the signs, quotes and escapes of Hydra's grammar."""
    key, _, value = override.partition("=")
    quoted = re.fullmatch(r"(['\"])(.*)\1", value, re.DOTALL)
    text = re.sub(r"\\(.)", r"\1", quoted[2] if quoted else value)
    return plain(key.lstrip("+~")), f"{float(text):.5g}" if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", text) else plain(text)


def _curves(run: Path) -> dict[str, Points]:
    """Return the logged values by name, from metrics.csv or else from the last checkpoint."""
    curves: dict[str, Points] = {}
    files = sorted(run.glob("csv/**/metrics.csv"), key=lambda path: _by_number(str(path)))
    for path in files:
        for name, step, value in _logged(path):
            curves.setdefault(plain(name), []).append((step, value))
    if not files:  # the run had another logger
        for record in _history(run):
            curves.setdefault(plain(record["name"]), []).append((record["step"], record["value"]))
    usable = {name: [point for point in points if all(map(_is_usable, point))] for name, points in curves.items()}
    return {name: points for name, points in usable.items() if points}


def _logged(path: Path) -> Iterator[tuple[str, float, float]]:
    """Yield name, step and value of the cells of a metrics.csv."""
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        try:
            for row in rows:
                for name, text in row.items():
                    if text and name not in ("step", "epoch", None):  # None: more cells than columns
                        yield name, float(row["step"]), float(text)
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            raise ValueError(
                f"{path}, line {rows.line_num}: {error!r:.100}, where step and value are expected"
            ) from error


def _history(run: Path) -> Sequence[Mapping[str, Any]]:
    from prefixvlm.training.checkpoint_file import LAST, load
    from prefixvlm.training.run_history import history

    checkpoint = run / "checkpoints" / LAST
    return history(load(checkpoint))["records"] if checkpoint.is_file() else []
