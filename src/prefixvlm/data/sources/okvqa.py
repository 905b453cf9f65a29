"""OK-VQA 1.1: one sample for each COCO image with all its questions.

train, and test from the val2014 files, on which results are reported. The answers are stemmed, as published.
"""

from pathlib import Path

from prefixvlm.data.sources._files import Samples
from prefixvlm.data.sources._vqa import vqa_samples

_URL = "https://okvqa.allenai.org/static/data"
SOURCE = "OK-VQA 1.1, https://okvqa.allenai.org"
LICENCE = "see https://okvqa.allenai.org; images under Flickr's terms"
TERMS = ""
SPLITS = ("train", "test")
ARGUMENTS = {
    "images": "DIR: the folder that holds val2014/ or train2014/, as needed, from "
    "http://images.cocodataset.org/zips/val2014.zip and train2014.zip",
    "train_questions": "OpenEnded_mscoco_train2014_questions.json: "
    f"in {_URL}/OpenEnded_mscoco_train2014_questions.json.zip",
    "train_annotations": f"mscoco_train2014_annotations.json: in {_URL}/mscoco_train2014_annotations.json.zip",
    "test_questions": f"OpenEnded_mscoco_val2014_questions.json: in {_URL}/OpenEnded_mscoco_val2014_questions.json.zip",
    "test_annotations": f"mscoco_val2014_annotations.json: in {_URL}/mscoco_val2014_annotations.json.zip",
}


def samples(
    split: str,
    images: Path,
    train_questions: Path | None = None,
    train_annotations: Path | None = None,
    test_questions: Path | None = None,
    test_annotations: Path | None = None,
) -> Samples:
    questions, annotations, coco_split = {
        "train": (train_questions, train_annotations, "train2014"),
        "test": (test_questions, test_annotations, "val2014"),
    }[split]
    return vqa_samples(split, questions, annotations, images, coco_split, ARGUMENTS)
