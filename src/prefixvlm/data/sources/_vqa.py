"""The layout of VQA: files of questions and of annotations go in, one sample an image with its questions comes out."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    answers,
    field,
    identity,
    image_file,
    read_json,
    texts,
    with_images,
)


def vqa_samples(
    questions: Path | None, annotations: Path | None, images: Path, part: str, wanted: tuple[str, str, str]
) -> Samples:
    """Key: the COCO image id. part: of COCO, as "val2014"; wanted: what the questions, annotations and images must be.

    Without annotations the questions have no answers.
    """
    content = read_json(questions, dict, wanted[0])
    assert questions is not None, "read_json raises"
    known = _annotations(annotations, wanted[1]) if annotations else None
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
        records.append(Record(str(image), {"jpg": path}, {"questions": found}))
    return with_images(records, wanted[2])


def _annotations(path: Path, wanted: str) -> dict[str, dict[str, Any]]:
    """Answers and groups by the id of the question."""
    return {
        identity(each, "question_id", path): {
            "answers": answers(each, path),
            "groups": texts(each, ("answer_type", "question_type"), path),
        }
        for each in field(read_json(path, dict, wanted), "annotations", list, path)
    }
