"""Karpathy's splits: one of his dataset_*.json goes in, one sample an image with its captions comes out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import Record, Samples, field, image_file, read_json, with_images

ZIP = "http://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
FLICKR_TERMS = (
    "The images are Flickr's, given for non-commercial research and education only; you ask for them by the form that "
    "comes with them and do not pass them on"
)
SPLITS = ("train", "val", "test")
PARTS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}  # restval: what COCO's val has left over


def karpathy_samples(
    split: str, annotations: Path, images: Path, wanted: dict[str, str], key: Callable[[Any, Path], str]
) -> Samples:
    """In the order of the file; `filepath`, which only COCO has, is the image's subfolder."""
    records = []
    for image in field(read_json(annotations, dict, wanted["annotations"]), "images", list, annotations):
        if field(image, "split", str, annotations) not in PARTS[split]:
            continue
        name, subfolder = field(image, "filename", str, annotations), image.get("filepath", "")
        captions = [field(text, "raw", str, annotations) for text in field(image, "sentences", list, annotations)]
        path = image_file(images, str(subfolder), name)
        records.append(Record(key(image, annotations), path, {"captions": captions}))
    return with_images(records, wanted["images"])


def stem(image: Any, annotations: Path) -> str:
    """The name of its file without the extension."""
    return Path(field(image, "filename", str, annotations)).stem
