"""COCO captions with COCO's own splits of 2014 or 2017: one sample for each image.

train and val; the captions of the test images are secret. The key is the COCO image id. For the splits that papers
report, with a test split of 5,000 images, see `coco`.
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
    read_required,
    samples_of,
)

_ZIPS = "http://images.cocodataset.org/annotations/annotations_trainval2014.zip (or 2017)"
SOURCE = "COCO captions, https://cocodataset.org, with COCO's own splits"
LICENCE = "annotations CC BY 4.0, images under Flickr's terms; see https://cocodataset.org/#termsofuse"
TERMS = ""
SPLITS = ("train", "val")
ARGUMENTS = {
    "images": "DIR: the folder that holds train2014/ and val2014/ (or of 2017), as needed, from "
    "http://images.cocodataset.org/zips/train2014.zip and val2014.zip (or 2017)",
    "train_annotations": f"captions_train2014.json: in {_ZIPS}",
    "val_annotations": f"captions_val2014.json: in {_ZIPS}",
}


def samples(
    split: str, images: Path, train_annotations: Path | None = None, val_annotations: Path | None = None
) -> Samples:
    file = {"train": train_annotations, "val": val_annotations}[split]
    path, content = read_required(file, f"{split}_annotations", dict, ARGUMENTS)
    captions: dict[str, list[str]] = defaultdict(list)
    for each in field(content, "annotations", list, path):
        captions[id_field(each, "image_id", path)].append(field(each, "caption", str, path))
    records: list[Record] = []
    for image in field(content, "images", list, path):
        key, name = id_field(image, "id", path), field(image, "file_name", str, path)
        folder = name.split("_")[1] if name.count("_") == 2 else f"{split}2017"  # COCO_val2014_000000000042.jpg
        problem = "" if captions[key] else f"it has no captions in {path.name}"
        records += captioned(key, image_path(images, folder, name), captions[key], {}, problem)
    return samples_of(records, ARGUMENTS["images"])
