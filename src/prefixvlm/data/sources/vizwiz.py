"""VizWiz-VQA: one sample for each image with its question.

Key and question id are the file name of the image without its extension. The label `answerable` is yes or no. The
answers of test are secret.
"""

from pathlib import Path

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    answer_texts,
    field,
    image_path,
    optional_texts,
    read_required,
    samples_of,
)

_URL = "https://vizwiz.cs.colorado.edu/VizWiz_final"
_ZIP = f"in {_URL}/vqa_data/Annotations.zip"
SOURCE = "VizWiz-VQA, https://vizwiz.org/tasks-and-datasets/vqa/"
LICENCE = "CC BY 4.0; see https://vizwiz.org/tasks-and-datasets/vqa/"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS = {
    "images": "DIR: the folder that holds train/, val/ or test/, as needed, from "
    f"{_URL}/images/train.zip, val.zip and test.zip",
    "train_annotations": f"train.json: {_ZIP}",
    "val_annotations": f"val.json: {_ZIP}",
    "test_annotations": f"test.json: {_ZIP}",
}


def samples(
    split: str,
    images: Path,
    train_annotations: Path | None = None,
    val_annotations: Path | None = None,
    test_annotations: Path | None = None,
) -> Samples:
    file = {"train": train_annotations, "val": val_annotations, "test": test_annotations}[split]
    path, content = read_required(file, f"{split}_annotations", list, ARGUMENTS)
    return samples_of([_record(each, split, images, path) for each in content], ARGUMENTS["images"])


def _record(each: object, split: str, images: Path, path: Path) -> Record:
    name = Path(field(each, "image", str, path))
    assert isinstance(each, dict), "field has checked it"
    question = {
        "id": name.stem,
        "question": field(each, "question", str, path),
        "answers": answer_texts(each, path) if "answers" in each else [],
        "groups": optional_texts(each, ("answer_type",), path),
    }
    labels = {"answerable": "yes" if field(each, "answerable", int, path) else "no"} if "answerable" in each else {}
    return Record(name.stem, image_path(images, split, name.name), {"questions": [question], "labels": labels})
