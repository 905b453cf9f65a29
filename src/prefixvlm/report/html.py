"""The result, predictions, history and images of an evaluation go in; one HTML file that opens offline comes out."""

import base64
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from prefixvlm.report import shown
from prefixvlm.report.classes import ClassView, class_views
from prefixvlm.report.gallery import LIMIT, Prediction, frame, gallery, is_right, is_wrong
from prefixvlm.report.plots import History, confusion, curves, machine_curves
from prefixvlm.report.progress import prefixes, progress
from prefixvlm.report.scatter import scatter
from prefixvlm.report.table import number, score_rows, span

FOLDER = Path(__file__).parent / "templates"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
TINY_IMAGE = 160  # pixels; what is smaller is magnified with its pixels shown, not smeared


def write_report(
    path: Path,
    result: dict[str, Any],
    predictions: Sequence[Prediction],
    history: History,
    examples: Sequence[Prediction],
    images: Mapping[str, bytes],
    limit: int = LIMIT,
) -> None:
    """Writes the page in one step: a reader never meets half of it, and an error leaves the old one.

    result: as in metrics.json. predictions: as in predictions.jsonl. examples: what was said while training, each
    with its step. images: encoded ones by key; `gallery_keys` says which are wanted, and one that is missing or does
    not decode leaves an empty frame. limit: images a task.
    """
    page = render(result, predictions, history, examples, images, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(page, encoding="utf-8", errors="replace")  # lone surrogates of a broken caption become "?"
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def render(
    result: dict[str, Any],
    predictions: Sequence[Prediction],
    history: History,
    examples: Sequence[Prediction],
    images: Mapping[str, bytes],
    limit: int = LIMIT,
) -> str:
    """The page itself."""
    by_task = _by_task(predictions)
    kinds = {task: shown.shown_as(result["tasks"].get(task, {})) for task in by_task}
    cards = gallery(predictions, limit)
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "span": span, "flat": lambda value: list(_flat(value)), "json": _json}
    return environment.get_template("page.html").render(
        result=result,
        css=Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        scores=list(score_rows(result)),
        examples={task: lines[0]["prompt"] for task, lines in by_task.items() if lines},
        asks={task: len({line["prompt"] for line in lines}) > 1 for task, lines in by_task.items()},
        frames={task: frame(lines) for task, lines in by_task.items()},
        is_right=is_right,
        is_wrong=is_wrong,
        settings=_settings(result),
        curves=curves(history),
        machine=machine_curves(history),
        progress=progress(examples),
        prefixes=prefixes(examples),
        said_frames={task: frame(lines) for task, lines in _by_task(examples).items()},
        gallery=cards,
        images={card.key: _image(images.get(card.key)) for found in cards.values() for card in found},
        kinds=kinds,
        boxes=shown.boxes,
        words=shown.words,
        **_sections(result, by_task, kinds),
    )


def _sections(
    result: Mapping[str, Any], by_task: Mapping[str, list[Prediction]], kinds: Mapping[str, str]
) -> dict[str, Any]:
    """What only some tasks have, by task: tables a class with their matrices, pictures of numbers, recalls."""
    found = {task: class_views(scored, by_task.get(task, ())) for task, scored in result["tasks"].items()}
    points = {task: shown.points(by_task[task]) for task, kind in kinds.items() if kind == shown.NUMBERS}
    return {
        "views": {task: [(view, _matrix(task, view)) for view in views] for task, views in found.items() if views},
        "scatters": {task: scatter(f"Predicted against true, {task}", each) for task, each in points.items() if each},
        "recalls": {task: each for task, scored in result["tasks"].items() if (each := shown.recalls(scored))},
    }


def _matrix(task: str, view: ClassView) -> Markup | None:
    return confusion(f"Confusion matrix, {task}", view.labels, view.counts) if view.labels else None


def _by_task(predictions: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    found: dict[str, list[Prediction]] = {}
    for line in predictions:
        found.setdefault(line["task"], []).append(line)
    return found


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """How it was evaluated, without what was left alone."""
    evaluation = result.get("evaluation") or {}
    benchmark, few_shot = evaluation.get("benchmark") or {}, evaluation.get("few_shot") or {}
    used = few_shot.get("shots") or few_shot.get("induction")
    quoted = {name: _json(value) if name == "separator" else value for name, value in few_shot.items()}  # a line break
    return {
        "config hash": result.get("config_hash"),
        "seed": result.get("seed"),
        "benchmark": benchmark.get("source"),
        "split": evaluation.get("split") or benchmark.get("split"),
        "limit": evaluation.get("limit"),
        "few-shot": {name: value for name, value in quoted.items() if name != "_target_"} if used else None,
        "trials": evaluation.get("trials") if evaluation.get("trials") != 1 else None,
        "judge": {name: value for name, value in (result.get("judge") or {}).items() if name != "warning"},
        "seconds": result["seconds"],
    }


def _image(data: bytes | None) -> dict[str, Any] | None:
    """The data URI of an image, its size, and whether it is tiny; None for what is not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(BytesIO(data or b""), formats=FORMATS)
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    uri = f"data:{image.get_format_mimetype()};base64,{base64.b64encode(data or b'').decode()}"
    return {"uri": uri, "size": image.size, "tiny": max(image.size) <= TINY_IMAGE}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as pairs of a dotted name and a text."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif value is not None:
        yield name, value if isinstance(value, str) else _json(value, indent=None)


def _json(value: Any, indent: int | None = 2) -> str:
    return json.dumps(value, indent=indent, ensure_ascii=False, default=str)
