"""Karpathy's splits of COCO and Flickr: samples of a dataset_*.json file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefixvlm.data.sources._files import Record, Samples, captioned, field, image_path, read_json, samples_of

ZIP = "http://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip"
FLICKR_TERMS = (
    "The images are Flickr's, given for non-commercial research and education only; you ask for them by the form that "
    "comes with them and do not pass them on"
)
SPLITS = ("train", "val", "test")
# "restval" is what remains of COCO's val2014 after Karpathy's val and test; papers train on it.
FILE_SPLITS = {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}


def karpathy_samples(
    split: str, annotations: Path, images: Path, descriptions: dict[str, str], key: Callable[[Any, Path], str]
) -> Samples:
    """Return the samples of a split. key: the key of a sample, of its image record and the path of the file."""
    records: list[Record] = []
    for image in field(read_json(annotations, dict, descriptions["annotations"]), "images", list, annotations):
        if field(image, "split", str, annotations) not in FILE_SPLITS[split]:
            continue
        name = field(image, "filename", str, annotations)
        subfolder = image.get("filepath", "")  # COCO's files alone have it
        captions = [field(text, "raw", str, annotations) for text in field(image, "sentences", list, annotations)]
        path = image_path(images, str(subfolder), name)
        records += captioned(key(image, annotations), path, captions, {})
    return samples_of(records, descriptions["images"])


def stem(image: Any, annotations: Path) -> str:
    """Return the file name of an image without its extension."""
    return Path(field(image, "filename", str, annotations)).stem
