"""Reports and predictions of each task go in; metrics.json, predictions.jsonl and report.html come out together."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from prefixvlm.report.gallery import gallery_keys
from prefixvlm.report.html import write_report


class Predicted(Protocol):
    """A prediction for one item of a task."""

    id: str
    prediction: str

    def to_dict(self) -> dict[str, Any]: ...


def join(
    reports: Mapping[str, dict[str, Any]],
    predictions: Mapping[str, Sequence[Predicted]],
    blind_reports: Mapping[str, dict[str, Any]],
    blind_predictions: Mapping[str, Sequence[Predicted]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What metrics.json says of the tasks, and the lines of predictions.jsonl, the blind baseline beside each."""
    tasks, lines = {}, []
    for name, report in reports.items():
        items = report.pop("items")
        tasks[name] = {**report, "blind": blind_reports.get(name, {}).get("scores")}
        blind = {p.id: p.prediction for p in blind_predictions.get(name, ())}
        lines += [
            {
                **p.to_dict(),
                "variant": report["variant"],
                "scores": items.get(p.id, {}),
                "blind_prediction": blind.get(p.id),
            }
            for p in predictions[name]
        ]
    return {"tasks": tasks}, lines


def describe(
    checkpoint: str,
    config: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    parts: Mapping[str, Any],
    seconds: Mapping[str, float],
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What was evaluated, with what: enough to do it again. config_hash: of all that may change a score.

    provenance: the versions, the commit and the command (provenance/record.py).
    """
    settings = {key: value for key, value in evaluation.items() if key not in ("ckpt", "out", "submission", "devices")}
    whole = json.dumps([config, settings], sort_keys=True, default=str)
    return {
        "checkpoint": str(checkpoint),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "model": {**{axis: config.get(axis) for axis in ("encoder", "mapper", "lm")}, **parts},
        "config": config,
        "evaluation": settings,
        "config_hash": hashlib.sha256(whole.encode()).hexdigest()[:16],
        "seed": config.get("seed"),
        "seconds": dict(seconds),
        **(provenance or {}),
    }


def check_writable(**folders: Path | None) -> None:
    """Raises ValueError, before hours of work, if a folder cannot be made or written to; folders: by key."""
    for key, folder in folders.items():
        if folder is None:
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise ValueError(
                f"{key} is {folder}, which cannot be written to ({error.strerror}); set another"
            ) from error


def write_results(
    out: Path,
    result: dict[str, Any],
    lines: Sequence[dict[str, Any]],
    history: Sequence[dict[str, Any]],
    examples: Sequence[dict[str, Any]],
    images: Callable[[Sequence[str]], Mapping[str, bytes]],
) -> None:
    """history, examples: what the run logged and said (callbacks/history.py). images: the encoded
    images of some keys, for the gallery. The page comes last: where it is, all is.
    """
    out.mkdir(parents=True, exist_ok=True)
    _write(out / "metrics.json", json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    _write(out / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    write_report(out / "report.html", result, lines, history, examples, images(gallery_keys(lines)))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
