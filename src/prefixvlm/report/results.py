"""The files of an evaluation: metrics.json, predictions.jsonl and report.html."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from prefixvlm.atomic import write_texts
from prefixvlm.report.gallery import gallery_keys
from prefixvlm.report.html import render


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
    """Return the `tasks` entry of metrics.json, and the lines of predictions.jsonl with the blind predictions."""
    tasks, lines = {}, []
    for name, report in reports.items():
        items, details = report["items"], report["details"]
        # One entry per prediction belongs into predictions.jsonl, not into metrics.json.
        summary = {key: value for key, value in report.items() if key not in ("items", "details")}
        tasks[name] = {**summary, "blind": blind_reports.get(name, {}).get("scores")}
        blind = {p.id: p.prediction for p in blind_predictions.get(name, ())}
        lines += [
            {
                **p.to_dict(),
                "variant": report["variant"],
                "scores": items.get(p.id, {}),
                **({"details": details[p.id]} if p.id in details else {}),
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
    """Return the description of an evaluation, from which it can be repeated.

    parts: further entries of `model`. provenance: versions, commit and command.
    """
    # The hash covers everything that may change a score; where and on how many devices it ran does not.
    settings = {
        key: value
        for key, value in evaluation.items()
        if key not in ("ckpt", "out", "submission", "devices", "inspect")
    }
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
    """Raise ValueError if a folder cannot be written to, before hours of work. folders: folders by their options."""
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
    history: Mapping[str, Any],
    images: Callable[[Sequence[str]], Mapping[str, bytes]],
    pages: Mapping[str, str] | None = None,
) -> None:
    """Write metrics.json, predictions.jsonl and report.html to `out`: all of them, or none if the disk is full.

    history: `records` and `examples` of the History callback. images: returns the encoded images of keys.
    pages: addresses of further pages by key, which the gallery links.
    """
    shown = images(gallery_keys(lines))
    texts = {
        "metrics.json": json.dumps(result, indent=1, ensure_ascii=False) + "\n",
        "predictions.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        "report.html": render(result, lines, history["records"], history["examples"], shown, pages=pages),
    }
    # Lone surrogates of a broken caption become "?".
    write_texts({out / name: text for name, text in texts.items()}, errors="replace")
