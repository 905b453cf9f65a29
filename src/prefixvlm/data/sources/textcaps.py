"""TextCaps: one sample for each image with its captions.

The captions of test are secret. The key is the image id.
"""

from collections import defaultdict
from pathlib import Path

from prefixvlm.data.sources._files import (
    Record,
    Samples,
    captioned,
    field,
    id_field,
    image_path,
    optional_texts,
    read_required,
    samples_of,
)

_URL = "https://dl.fbaipublicfiles.com/textvqa"
SOURCE = "TextCaps 0.1, https://textvqa.org/textcaps"
LICENCE = "see https://textvqa.org/textcaps"
TERMS = ""
SPLITS = ("train", "val", "test")
ARGUMENTS = {
    "images": f"DIR: the folder that holds train_images/ and test_images/, of {_URL}/images/train_val_images.zip and "
    "test_images.zip",
    "train_annotations": f"TextCaps_0.1_train.json: {_URL}/data/textcaps/TextCaps_0.1_train.json",
    "val_annotations": f"TextCaps_0.1_val.json: {_URL}/data/textcaps/TextCaps_0.1_val.json",
    "test_annotations": f"TextCaps_0.1_test.json: {_URL}/data/textcaps/TextCaps_0.1_test.json",
}


def samples(
    split: str,
    images: Path,
    train_annotations: Path | None = None,
    val_annotations: Path | None = None,
    test_annotations: Path | None = None,
) -> Samples:
    file = {"train": train_annotations, "val": val_annotations, "test": test_annotations}[split]
    path, content = read_required(file, f"{split}_annotations", dict, ARGUMENTS)
    captions: dict[str, list[str]] = defaultdict(list)  # the file repeats an image for each of its captions
    for each in field(content, "data", list, path):
        captions[id_field(each, "image_id", path)] += optional_texts(each, ("caption_str",), path).values()
    folder = "test_images" if split == "test" else "train_images"
    records: list[Record] = []
    for image, texts in captions.items():
        records += captioned(image, image_path(images, folder, f"{image}.jpg"), texts, {})
    return samples_of(records, ARGUMENTS["images"])
