"""The JSON files of COCO captions, VQA and our own predictions go in; texts by id come out, or one sentence."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixvlm.metrics.pairs import some
from prefixvlm.metrics.vqa.report import Annotation


@dataclass(frozen=True)
class ItemScores:
    """One task's scores by item: the image's key and what each score gives the item. variant: the metrics' name."""

    variant: str
    items: dict[str, tuple[str, dict[str, float]]]


def read_references(path: Path) -> dict[int | str, list[str]]:
    """COCO's annotation file {"annotations": [{"image_id", "caption"}], ...}: the captions of each image."""
    found: dict[int | str, list[str]] = {}
    for image_id, caption in _pairs(path, _entries(path, "annotations"), "image_id", "caption"):
        found.setdefault(image_id, []).append(caption)
    return found


def read_predictions(path: Path, id: str, text: str) -> dict[int | str, str]:
    """A result file: a list of {id: ..., text: ...}, as "image_id" and "caption", each id once."""
    return _unique(path, id, _pairs(path, _entries(path), id, text))


def read_annotations(path: Path) -> dict[int | str, Annotation]:
    """VQA's {"annotations": [{"question_id", "answers": [{"answer"}], "answer_type", "question_type"}], ...}."""
    found = []
    for entry in _entries(path, "annotations"):
        try:
            id, answers = entry["question_id"], [answer["answer"] for answer in entry["answers"]]
            types = entry.get("answer_type"), entry.get("question_type")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {entry!r:.100} is no annotation with question_id and answers") from error
        if not isinstance(id, int | str) or not all(isinstance(text, str) for text in answers):
            raise ValueError(f"{path}: question_id {id!r:.40} is no number or text, or one of its answers no text")
        if not all(kind is None or isinstance(kind, str) for kind in types):
            raise ValueError(f"{path}: question {id!r} has a type that is no text: {types!r:.80}")
        found.append((id, Annotation(answers, *types)))
    return _unique(path, "question_id", found)


def read_question_ids(path: Path) -> set[int | str]:
    """VQA's {"questions": [{"question_id", "question"}], ...}."""
    return set(_unique(path, "question_id", _pairs(path, _entries(path, "questions"), "question_id", "question")))


def read_scores(path: Path) -> dict[str, ItemScores]:
    """eval.py's predictions.jsonl, or its folder: the scores of each item, by task."""
    path = path / "predictions.jsonl" if path.is_dir() else path
    tasks: dict[str, list[tuple[str, tuple[str, dict[str, float]]]]] = {}
    variants: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                entry = json.loads(line)
                tasks.setdefault(entry["task"], []).append((entry["id"], (entry["key"], entry["scores"])))
                variants[entry["task"]] = entry["variant"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not predictions of eval.py ({error}); give its predictions.jsonl") from error
    if not tasks:
        raise ValueError(f"{path} holds no predictions")
    return {task: ItemScores(variants[task], _unique(path, "id", found)) for task, found in tasks.items()}


def _entries(path: Path, name: str | None = None) -> list[Any]:
    """The file's list; name: under which key of an object it is."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error})") from error
    wanted = f"an object with a list of {name}" if name else "a list of predictions"
    if name:
        content = content.get(name) if isinstance(content, dict) else None
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} does not hold what is wanted: {wanted}")
    return content


def _pairs(path: Path, entries: Iterable[Any], id: str, text: str) -> list[tuple[int | str, str]]:
    found = []
    for entry in entries:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get(text), str)
            or not isinstance(entry.get(id), int | str)
        ):
            raise ValueError(f"{path}: {entry!r:.100} is not an object with {id} and a text {text}")
        found.append((entry[id], entry[text]))
    return found


def _unique(path: Path, name: str, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    pairs = list(pairs)
    repeated = [id for id, count in Counter(id for id, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: {len(repeated)} {name} come twice ({some(repeated)}); each must be there once")
    return dict(pairs)


def check_questions(questions: set[int | str], annotations: Mapping[int | str, Any], path: Path) -> None:
    """Raises ValueError, with ids, if the questions' ids are not the annotations'."""
    if different := sorted(map(repr, questions ^ annotations.keys())):
        raise ValueError(
            f"{path} and the annotations differ in {len(different)} question_ids ({', '.join(different[:3])})"
        )
