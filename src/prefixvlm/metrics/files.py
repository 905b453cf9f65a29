"""Reading the JSON files that are scored: COCO captions, VQA, and predictions.jsonl of eval.py.

Every function raises ValueError, with the path, for a file that does not have the described form.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixvlm.metrics.pairs import some
from prefixvlm.metrics.vqa.report import Annotation
from prefixvlm.strict_json import parse_json, read_json


@dataclass(frozen=True)
class ItemScores:
    """Scores of one task by item. variant: of its metrics. items: by id the image's key and the item's scores."""

    variant: str
    items: dict[str, tuple[str, dict[str, float]]]


@dataclass(frozen=True)
class _Line:
    """What is read of a line of predictions.jsonl."""

    task: str
    id: str
    key: str
    scores: dict[str, float]
    variant: str


def read_references(path: Path) -> dict[int | str, list[str]]:
    """Read the captions of each image from COCO's {"annotations": [{"image_id", "caption"}], ...}."""
    captions: dict[int | str, list[str]] = {}
    for image_id, caption in _pairs(path, _entries(path, "annotations"), "image_id", "caption"):
        captions.setdefault(image_id, []).append(caption)
    return captions


def read_predictions(path: Path, id: str, text: str) -> dict[int | str, str]:
    """Read a list of {id: ..., text: ...}, such as "image_id" and "caption", with each id once."""
    return _unique(path, id, _pairs(path, _entries(path), id, text))


def read_annotations(path: Path) -> dict[int | str, Annotation]:
    """Read VQA's {"annotations": [{"question_id", "answers": [{"answer"}], "answer_type", "question_type"}], ...}."""
    annotations = []
    for entry in _entries(path, "annotations"):
        try:
            id, answers = entry["question_id"], [answer["answer"] for answer in entry["answers"]]
            types = entry.get("answer_type"), entry.get("question_type")
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: {entry!r:.100} is not an annotation with question_id and answers") from error
        if not isinstance(id, int | str) or not all(isinstance(text, str) for text in answers):
            raise ValueError(f"{path}: question_id {id!r:.40} is not a number or a string, or an answer not a string")
        if not all(kind is None or isinstance(kind, str) for kind in types):
            raise ValueError(f"{path}: question {id!r} has a type that is not a string: {types!r:.80}")
        annotations.append((id, Annotation(answers, *types)))
    return _unique(path, "question_id", annotations)


def read_question_ids(path: Path) -> set[int | str]:
    """Read the ids of VQA's {"questions": [{"question_id", "question"}], ...}."""
    return set(_unique(path, "question_id", _pairs(path, _entries(path, "questions"), "question_id", "question")))


def read_scores(path: Path) -> dict[str, ItemScores]:
    """Read the scores of each item, by task, from eval.py's predictions.jsonl or its folder."""
    path = path / "predictions.jsonl" if path.is_dir() else path
    tasks: dict[str, list[tuple[str, tuple[str, dict[str, float]]]]] = {}
    variants: dict[str, str] = {}
    try:
        # Not splitlines: it also splits at the line separators of Unicode, which JSON strings may hold unescaped.
        for line in path.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                entry = parse_json(line, _Line)
                tasks.setdefault(entry.task, []).append((entry.id, (entry.key, entry.scores)))
                variants[entry.task] = entry.variant
    except ValueError as error:
        raise ValueError(f"{path} is not predictions of eval.py ({error}); give its predictions.jsonl") from error
    if not tasks:
        raise ValueError(f"{path} holds no predictions")
    return {task: ItemScores(variants[task], _unique(path, "id", items)) for task, items in tasks.items()}


def check_questions(questions: set[int | str], annotations: Mapping[int | str, Any], path: Path) -> None:
    """Raise ValueError, with ids, unless questions and annotations have the same ids."""
    if different := sorted(map(repr, questions ^ annotations.keys())):
        raise ValueError(
            f"{path} and the annotations differ in {len(different)} question_ids ({', '.join(different[:3])})"
        )


def _entries(path: Path, name: str | None = None) -> list[Any]:
    """Read the file's non-empty list. name: the key of the list, for a file that is an object."""
    content: Any = read_json(path, Any, "a JSON file")
    expected = f"an object with a list of {name}" if name else "a list of predictions"
    if name:
        content = content.get(name) if isinstance(content, dict) else None
    if not isinstance(content, list) or not content:
        raise ValueError(f"{path} does not hold {expected}")
    return content


def _pairs(path: Path, entries: Iterable[Any], id: str, text: str) -> list[tuple[int | str, str]]:
    pairs = []
    for entry in entries:
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get(text), str)
            or not isinstance(entry.get(id), int | str)
        ):
            raise ValueError(f"{path}: {entry!r:.100} is not an object with {id} and a text {text}")
        pairs.append((entry[id], entry[text]))
    return pairs


def _unique(path: Path, name: str, pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    # A dict would silently take the last of two predictions for one id.
    pairs = list(pairs)
    repeated = [id for id, count in Counter(id for id, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"{path}: {len(repeated)} {name} come twice ({some(repeated)}); each must be there once")
    return dict(pairs)
