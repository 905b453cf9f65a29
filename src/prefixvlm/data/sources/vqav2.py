"""VQAv2: one sample for each COCO image with all its questions.

train, val, and test with the questions of test2015 or test-dev2015, whose answers are secret. The key is the COCO image
id.
"""

from pathlib import Path

from prefixvlm.data.sources._files import Samples
from prefixvlm.data.sources._vqa import vqa_samples

_URL = "https://s3.amazonaws.com/cvmlp/vqa/mscoco/vqa"
SOURCE = "VQA v2.0, https://visualqa.org"
LICENCE = "annotations CC BY 4.0, images under Flickr's terms; see https://visualqa.org/terms.html"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS = {
    "images": "DIR: the folder that holds val2014/, train2014/ or test2015/, as needed, from "
    "http://images.cocodataset.org/zips/val2014.zip, train2014.zip and test2015.zip",
    "train_questions": f"v2_OpenEnded_mscoco_train2014_questions.json: in {_URL}/v2_Questions_Train_mscoco.zip",
    "train_annotations": f"v2_mscoco_train2014_annotations.json: in {_URL}/v2_Annotations_Train_mscoco.zip",
    "val_questions": f"v2_OpenEnded_mscoco_val2014_questions.json: in {_URL}/v2_Questions_Val_mscoco.zip",
    "val_annotations": f"v2_mscoco_val2014_annotations.json: in {_URL}/v2_Annotations_Val_mscoco.zip",
    "test_questions": f"v2_OpenEnded_mscoco_test2015_questions.json: in {_URL}/v2_Questions_Test_mscoco.zip "
    "(or test-dev2015 in the same)",
}


def samples(
    split: str,
    images: Path,
    train_questions: Path | None = None,
    train_annotations: Path | None = None,
    val_questions: Path | None = None,
    val_annotations: Path | None = None,
    test_questions: Path | None = None,
) -> Samples:
    questions, annotations, coco_split = {
        "train": (train_questions, train_annotations, "train2014"),
        "val": (val_questions, val_annotations, "val2014"),
        "test": (test_questions, None, "test2015"),
    }[split]
    return vqa_samples(split, questions, annotations, images, coco_split, ARGUMENTS)
