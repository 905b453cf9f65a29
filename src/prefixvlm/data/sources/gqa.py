"""GQA: its balanced questions and images go in, one sample an image with all its questions comes out.

test: testdev_balanced, on which it is reported. The group `type` is open or binary as in GQA's eval.py: what its
structure calls a query is open, all else binary.
"""

from collections import defaultdict
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import Record, Samples, field, identity, image_file, read_given, texts, with_images

_ZIP = "questions1.2.zip of https://cs.stanford.edu/people/dorarad/gqa/download.html"
SOURCE = "GQA 1.2, https://cs.stanford.edu/people/dorarad/gqa"
LICENCE = "CC BY 4.0; see https://cs.stanford.edu/people/dorarad/gqa"
TERMS = ""
SPLITS = ("train", "val", "test")
WANTED = {
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
    path, content = read_given(file, f"{split}_questions", dict, WANTED)
    asked: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for id_, question in content.items():
        asked[identity(question, "imageId", path)].append(
            {
                "id": id_,
                "question": field(question, "question", str, path),
                "answers": list(texts(question, ("answer",), path).values()),
                "groups": _groups(question, path),
            }
        )
    records = [
        Record(image, image_file(images, "images", f"{image}.jpg"), {"questions": found})
        for image, found in asked.items()
    ]
    return with_images(records, WANTED["images"])


def _groups(question: dict[str, Any], path: Path) -> dict[str, str]:
    if "types" not in question:  # where the answers are secret
        return {}
    structure = field(field(question, "types", dict, path), "structural", str, path)
    return {"type": "open" if structure == "query" else "binary"}
