"""The report of an evaluation as a single HTML file that works offline."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from prefixvlm.atomic import write_text
from prefixvlm.data.image import decode_image
from prefixvlm.report import task_views
from prefixvlm.report.classes import ClassView, class_views
from prefixvlm.report.gallery import LIMIT, Prediction, frame, gallery, is_right, is_wrong, item_scores
from prefixvlm.report.page import TEMPLATES, render_page
from prefixvlm.report.plots import History, confusion, curves, machine_curves
from prefixvlm.report.progress import prefixes, progress
from prefixvlm.report.scatter import scatter
from prefixvlm.report.table import number, p_text, score_rows, span

TINY_IMAGE = 160  # pixels; smaller images are magnified without smoothing


def write_report(
    path: Path,
    result: dict[str, Any],
    predictions: Sequence[Prediction],
    history: History,
    examples: Sequence[Prediction],
    images: Mapping[str, bytes],
    limit: int = LIMIT,
) -> None:
    """Write the page; see `render`."""
    page = render(result, predictions, history, examples, images, limit)
    write_text(path, page, errors="replace")  # lone surrogates of a broken caption become "?"


def render(
    result: dict[str, Any],
    predictions: Sequence[Prediction],
    history: History,
    examples: Sequence[Prediction],
    images: Mapping[str, bytes],
    limit: int = LIMIT,
    pages: Mapping[str, str] | None = None,
) -> str:
    """Return the page.

    result: content of metrics.json. predictions: lines of predictions.jsonl. history, examples: records and examples of
    the History callback. images: encoded images by key, for all of `gallery_keys`; one that is missing or cannot be
    decoded leaves an empty frame. limit: number of images for each task. pages: addresses of
    further pages about images, by key.
    """
    by_task, rows = _by_task(predictions), list(score_rows(result))
    return render_page(
        TEMPLATES / "page.html",
        f"{result['checkpoint']} \u00b7 prefixvlm report",
        {"number": number, "span": span, "p": p_text, "flat": lambda value: list(_flat(value)), "json": _json},
        result=result,
        scores=rows,
        baselines=list(rows[0].baselines) if rows else [],
        is_right=is_right,
        is_wrong=is_wrong,
        settings=_settings(result),
        pages=pages or {},
        curves=curves(history),
        machine=machine_curves(history),
        progress=progress(examples),
        prefixes=prefixes(examples),
        progress_frames={task: frame(lines) for task, lines in _by_task(examples).items()},
        item_scores=(shown_by := item_scores(result)),
        **_gallery(by_task, images, gallery(predictions, limit, shown_by)),
        **_task_sections(result, by_task),
    )


def _gallery(
    by_task: Mapping[str, list[Prediction]], images: Mapping[str, bytes], cards: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the template's variables for the gallery."""
    pictures = {card.key: _image(images.get(card.key)) for each in cards.values() for card in each}
    return {
        "gallery": cards,
        "images": pictures,
        "has_pictures": lambda cards: any(pictures[card.key] for card in cards),
        "examples": {task: lines[0]["prompt"] for task, lines in by_task.items() if lines},
        "prompts_differ": {task: len({line["prompt"] for line in lines}) > 1 for task, lines in by_task.items()},
        "frames": {task: frame(lines) for task, lines in by_task.items()},
        "boxes": task_views.boxes,
        "words": task_views.words,
    }


def _task_sections(result: Mapping[str, Any], by_task: Mapping[str, list[Prediction]]) -> dict[str, Any]:
    """Return the template's variables for sections of some tasks: classes, scatter plots, tables of scores."""
    tasks = result["tasks"]
    shown_as = {task: task_views.shown_as(tasks.get(task, {})) for task in by_task}
    classes = {task: class_views(scored, by_task.get(task, ())) for task, scored in tasks.items()}
    points = {task: task_views.points(by_task[task]) for task, kind in shown_as.items() if kind == "numbers"}
    tables = {task: task_views.score_table(scored) for task, scored in tasks.items()}
    return {
        "shown_as": shown_as,
        "classes": {task: [(view, _matrix(task, view)) for view in views] for task, views in classes.items() if views},
        "scatters": {task: scatter(f"Predicted against true, {task}", each) for task, each in points.items() if each},
        "score_tables": {task: rows for task, rows in tables.items() if rows},
    }


def _matrix(task: str, view: ClassView) -> Markup | None:
    return confusion(f"Confusion matrix, {task}", view.labels, view.counts) if view.labels else None


def _by_task(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for line in predictions:
        groups.setdefault(line["task"], []).append(line)
    return groups


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the evaluation that are not at their defaults, and its origin."""
    evaluation = result.get("evaluation") or {}
    benchmark, few_shot = evaluation.get("benchmark") or {}, evaluation.get("few_shot") or {}
    is_few_shot = few_shot.get("shots") or few_shot.get("induction")
    quoted = {name: _json(value) if name == "separator" else value for name, value in few_shot.items()}  # "\n"
    return {
        "config hash": result.get("config_hash"),
        "seed": result.get("seed"),
        "benchmark": benchmark.get("source"),
        "split": evaluation.get("split") or benchmark.get("split"),
        "limit": evaluation.get("limit"),
        "few-shot": {name: value for name, value in quoted.items() if name != "_target_"} if is_few_shot else None,
        "trials": evaluation.get("trials") if evaluation.get("trials") != 1 else None,
        "clip_scorer": {k: v for k, v in (result.get("clip_scorer") or {}).items() if k != "warning"},
        "seconds": result["seconds"],
    }


def _image(data: bytes | None) -> dict[str, Any] | None:
    """Return the data URI of an image, its size, and whether it is tiny; None for bytes that are not an image."""
    # The browser decodes the image, and must not be sent a bomb.
    try:
        header = decode_image.header(data or b"")
    except ValueError:
        return None
    uri = f"data:{header.mime};base64,{base64.b64encode(data or b'').decode()}"
    size = header.width, header.height
    return {"uri": uri, "size": size, "tiny": max(size) <= TINY_IMAGE}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield a dotted name and a text for each value of nested mappings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value if isinstance(value, str) else _json(value, indent=None)


def _json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str)
