"""COCO captions with Karpathy's splits: one sample for each image of 2014.

train (113,287, with the rest of val2014), val and test (5,000 each). The key is the COCO image id.
"""

from pathlib import Path

from prefixvlm.data.sources import _karpathy
from prefixvlm.data.sources._files import Samples, id_field

SOURCE = "COCO captions of 2014, https://cocodataset.org, with Karpathy's splits"
LICENCE = "annotations CC BY 4.0, images under Flickr's terms; see https://cocodataset.org/#termsofuse"
TERMS = ""
SPLITS = _karpathy.SPLITS
ARGUMENTS = {
    "annotations": f"dataset_coco.json: Karpathy's splits, in {_karpathy.ZIP}",
    "images": "DIR: the folder that holds train2014/ and val2014/, of http://images.cocodataset.org/zips/train2014.zip "
    "and val2014.zip",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    return _karpathy.karpathy_samples(
        split, annotations, images, ARGUMENTS, lambda image, path: id_field(image, "cocoid", path)
    )
