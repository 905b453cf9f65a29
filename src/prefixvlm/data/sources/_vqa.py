"""The file format of VQA: samples of a questions and an annotations file, one for each image."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    answer_texts,
    field,
    id_field,
    image_path,
    option,
    optional_texts,
    read_required,
    samples_of,
)


def vqa_samples(
    split: str,
    questions: Path | None,
    annotations: Path | None,
    images: Path,
    coco_split: str,
    descriptions: Mapping[str, str],
) -> Samples:
    """Return the samples of a split; their keys are COCO image ids.

    coco_split: as "val2014". descriptions: what each argument must be. Without a description of the annotations, the
    answers of the split are secret and its questions have none.
    """
    argument = f"{split}_annotations"
    answers = _annotations(annotations, argument, descriptions, coco_split) if argument in descriptions else None
    questions, content = read_required(questions, f"{split}_questions", dict, descriptions)
    _check_split(content, questions, f"{split}_questions", coco_split)
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for question in field(content, "questions", list, questions):
        id_ = id_field(question, "question_id", questions)
        if answers is not None and id_ not in answers:
            raise ValueError(
                f"{annotations} has no answers to question {id_!r:.80} of {questions}; both must be of one split"
            )
        annotation = answers[id_] if answers is not None else {"answers": [], "groups": {}}
        text = field(question, "question", str, questions)
        by_image[field(question, "image_id", int, questions)].append({"id": id_, "question": text, **annotation})
    records = []
    for image, image_questions in by_image.items():
        path = image_path(images, coco_split, f"COCO_{coco_split}_{image:012d}.jpg")
        records.append(Record(str(image), path, {"questions": image_questions}))
    return samples_of(records, descriptions["images"])


def _check_split(content: dict[str, Any], path: Path, argument: str, coco_split: str) -> None:
    """Raise ValueError if the file names another split as its own."""
    found = content.get("data_subtype", coco_split)
    if found not in (coco_split, coco_split.replace("test", "test-dev")):
        raise ValueError(f"{path} is a file of {found!r:.80}; {option(argument)} must be one of {coco_split}")


def _annotations(
    path: Path | None, argument: str, descriptions: Mapping[str, str], coco_split: str
) -> dict[str, dict[str, Any]]:
    """Return answers and groups by question id."""
    path, content = read_required(path, argument, dict, descriptions)
    _check_split(content, path, argument, coco_split)
    return {
        id_field(each, "question_id", path): {
            "answers": answer_texts(each, path),
            "groups": optional_texts(each, ("answer_type", "question_type"), path),
        }
        for each in field(content, "annotations", list, path)
    }
