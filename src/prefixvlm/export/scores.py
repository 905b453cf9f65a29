"""The metrics.json of an evaluation that belongs to a checkpoint."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from prefixvlm.data.shards.manifest import sha256
from prefixvlm.report.table import ScoreRow, score_rows
from prefixvlm.strict_json import read_json

METRICS = "metrics.json"


@dataclass
class TaskScores:
    """Scores of a task. blind, shuffled, nearest: of baselines. intervals: of 95 %. counts: items of each score."""

    scores: dict[str, float | None]
    num_items: int
    variant: str = ""
    blind: dict[str, float | None] | None = None
    shuffled: dict[str, float | None] | None = None
    nearest: dict[str, float | None] | None = None
    intervals: dict[str, list[float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    digits: dict[str, int] = field(default_factory=dict)


@dataclass
class Metrics:
    """What a model card shows of metrics.json."""

    tasks: dict[str, TaskScores]
    config: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    date: str = ""
    checkpoint_sha256: str | None = None

    def rows(self) -> list[ScoreRow]:
        return [
            row for row in score_rows({"tasks": {k: asdict(v) for k, v in self.tasks.items()}}) if row.value is not None
        ]


def read_metrics(path: Path, checkpoint: Path) -> Metrics:
    """Return the scores in a file. Raises ValueError if they are those of another checkpoint."""
    metrics = read_json(path, Metrics, "the metrics.json of an evaluation")
    if metrics.checkpoint_sha256 not in (None, sha256(checkpoint)):
        raise ValueError(f"{path} is of another checkpoint; evaluate this one with eval.py, or leave --metrics out")
    return metrics


def find_metrics(checkpoint: Path) -> Metrics | None:
    """Return the scores of a checkpoint from where eval.py and the demo write them, None if they are not there."""
    run = checkpoint.absolute().parent.parent
    for path in (folder / METRICS for folder in (checkpoint.parent, run, run / "eval", run.parent)):
        if path.is_file():
            try:
                metrics = read_json(path, Metrics, "the metrics.json of an evaluation")
            except ValueError:  # a file of this name that is something else, for which nobody has asked
                continue
            if metrics.checkpoint_sha256 == sha256(checkpoint):
                return metrics
    return None
