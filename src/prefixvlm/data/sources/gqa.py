"""GQA with its balanced questions: one sample for each image with all its questions.

test is testdev_balanced, on which results are reported. The group `type` is open or binary as in GQA's eval.py:
questions of the structural type query are open, all others binary.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    field,
    id_field,
    image_path,
    optional_texts,
    read_required,
    samples_of,
)

_ZIP = "questions1.2.zip of https://cs.stanford.edu/people/dorarad/gqa/download.html"
SOURCE = "GQA 1.2, https://cs.stanford.edu/people/dorarad/gqa"
LICENCE = "CC BY 4.0; see https://cs.stanford.edu/people/dorarad/gqa"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS = {
    "images": "DIR: the folder of all images, images.zip of https://cs.stanford.edu/people/dorarad/gqa/download.html",
    "train_questions": f"train_balanced_questions.json: in {_ZIP}",
    "val_questions": f"val_balanced_questions.json: in {_ZIP}",
    "test_questions": f"testdev_balanced_questions.json: in {_ZIP}",
}


def samples(
    split: str,
    images: Path,
    train_questions: Path | None = None,
    val_questions: Path | None = None,
    test_questions: Path | None = None,
) -> Samples:
    file = {"train": train_questions, "val": val_questions, "test": test_questions}[split]
    path, content = read_required(file, f"{split}_questions", dict, ARGUMENTS)
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for id_, question in content.items():
        by_image[id_field(question, "imageId", path)].append(
            {
                "id": id_,
                "question": field(question, "question", str, path),
                "answers": list(optional_texts(question, ("answer",), path).values()),
                "groups": _groups(question, path),
            }
        )
    records = [
        Record(image, image_path(images, "images", f"{image}.jpg"), {"questions": questions})
        for image, questions in by_image.items()
    ]
    return samples_of(records, ARGUMENTS["images"])


def _groups(question: dict[str, Any], path: Path) -> dict[str, str]:
    if "types" not in question:  # as in splits with secret answers
        return {}
    structure = field(field(question, "types", dict, path), "structural", str, path)
    return {"type": "open" if structure == "query" else "binary"}
