"""The files of an evaluation: metrics.json, predictions.jsonl and report.html."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from prefixvlm.atomic import write_texts
from prefixvlm.report.differences import differences
from prefixvlm.report.gallery import gallery_keys, item_scores
from prefixvlm.report.html import render

NOT_SUMMARY = ("items", "resamples", "details", "sources")  # entries of a report that have a value for each prediction


class Predicted(Protocol):
    """A prediction for one item of a task."""

    key: str
    id: str
    prediction: str

    def to_dict(self) -> dict[str, Any]: ...


def join(
    reports: Mapping[str, dict[str, Any]],
    predictions: Mapping[str, Sequence[Predicted]],
    baselines: Mapping[str, tuple[Mapping[str, dict[str, Any]], Mapping[str, Sequence[Predicted]]]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the `tasks` entry of metrics.json, and the lines of predictions.jsonl.

    baselines: reports and predictions, by the name of the baseline.
    """
    tasks, lines = {}, []
    for name, report in tqdm(reports.items(), "comparing with the baselines", delay=5):
        # One entry per prediction belongs into predictions.jsonl, not into metrics.json.
        tasks[name] = {key: value for key, value in report.items() if key not in NOT_SUMMARY}
        keys = {p.id: p.key for p in predictions[name]}
        more: dict[str, dict[str, Any]] = {id: {} for id in keys}
        for baseline, (its_reports, its_predictions) in baselines.items():
            other = its_reports.get(name)
            tasks[name][baseline] = other and other["scores"]
            if other:
                tasks[name].setdefault("differences", {})[baseline] = differences(report, other, keys)
                tasks[name] |= {key: other[key] for key in ("shuffled_within",) if key in other}
            scores, texts = _by_id(other), {p.id: p.prediction for p in its_predictions.get(name, ())}
            for id, entry in more.items():
                entry[f"{baseline}_prediction"], entry[f"{baseline}_scores"] = texts.get(id), scores.get(id, {})
                if other and id in other.get("sources", ()):
                    entry[f"{baseline}_from"] = other["sources"][id]
        scores, details = _by_id(report), report["details"]
        lines += [
            {
                **p.to_dict(),
                "variant": report["variant"],
                "scores": scores.get(p.id, {}),
                **({"details": details[p.id]} if p.id in details else {}),
                **more[p.id],
            }
            for p in predictions[name]
        ]
    return {"tasks": tasks}, lines


def _by_id(report: Mapping[str, Any] | None) -> dict[str, dict[str, float]]:
    """Return the scores of each prediction by its id, without those of a group, which most predictions lack."""
    found: dict[str, dict[str, float]] = {}
    for name, items in (report or {"items": {}})["items"].items():
        if report and len(items) == report["num_items"] - report["num_unscored"]:
            for id, item in items.items():
                found.setdefault(id, {})[name] = item
    return found


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
    shown = images(gallery_keys(lines, shown_by=item_scores(result)))
    texts = {
        "metrics.json": json.dumps(result, indent=1, ensure_ascii=False) + "\n",
        "predictions.jsonl": "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
        "report.html": render(result, lines, history["records"], history["examples"], shown, pages=pages),
    }
    # Lone surrogates of a broken caption become "?".
    write_texts({out / name: text for name, text in texts.items()}, errors="replace")
