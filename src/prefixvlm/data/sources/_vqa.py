"""The layout of VQA: files of questions and of annotations go in, one sample an image with its questions comes out."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    answers,
    field,
    identity,
    image_file,
    option,
    read_given,
    texts,
    with_images,
)


def vqa_samples(
    split: str, questions: Path | None, annotations: Path | None, images: Path, part: str, wanted: Mapping[str, str]
) -> Samples:
    """Key: the COCO image id. part: of COCO, as "val2014"; wanted: by argument, what it must be.

    The questions of a split for which no annotations are wanted have no answers.
    """
    told_by = f"{split}_annotations"
    known = _annotations(annotations, told_by, wanted, part) if told_by in wanted else None
    questions, content = read_given(questions, f"{split}_questions", dict, wanted)
    _check_part(content, questions, f"{split}_questions", part)
    asked: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for question in field(content, "questions", list, questions):
        id_ = identity(question, "question_id", questions)
        if known is not None and id_ not in known:
            raise ValueError(
                f"{annotations} has no answers to question {id_} of {questions}; both must be of one split"
            )
        told = known[id_] if known is not None else {"answers": [], "groups": {}}
        text = field(question, "question", str, questions)
        asked[field(question, "image_id", int, questions)].append({"id": id_, "question": text, **told})
    records = []
    for image, found in asked.items():
        path = image_file(images, part, f"COCO_{part}_{image:012d}.jpg")
        records.append(Record(str(image), path, {"questions": found}))
    return with_images(records, wanted["images"])


def _check_part(content: dict[str, Any], path: Path, argument: str, part: str) -> None:
    """Raises ValueError for a file that says itself that it is of another split, as val2014 or test-dev2015."""
    said = content.get("data_subtype", part)
    if said not in (part, part.replace("test", "test-dev")):
        raise ValueError(f"{path} says that it is of {said}; {option(argument)} wants a file of {part}")


def _annotations(path: Path | None, argument: str, wanted: Mapping[str, str], part: str) -> dict[str, dict[str, Any]]:
    """Answers and groups by the id of the question."""
    path, content = read_given(path, argument, dict, wanted)
    _check_part(content, path, argument, part)
    return {
        identity(each, "question_id", path): {
            "answers": answers(each, path),
            "groups": texts(each, ("answer_type", "question_type"), path),
        }
        for each in field(content, "annotations", list, path)
    }
