"""Flickr30k with Karpathy's splits: one sample for each image.

train, val and test (1,000). The key is the file name of the image without its extension.
"""

from pathlib import Path

from prefixvlm.data.sources import _karpathy
from prefixvlm.data.sources._files import Samples

SOURCE = "Flickr30k, https://shannon.cs.illinois.edu/DenotationGraph/, with Karpathy's splits"
LICENCE = "non-commercial research and education; see https://shannon.cs.illinois.edu/DenotationGraph/"
TERMS = _karpathy.FLICKR_TERMS
SPLITS = _karpathy.SPLITS
ARGUMENTS = {
    "annotations": f"dataset_flickr30k.json: Karpathy's splits, in {_karpathy.ZIP}",
    "images": "DIR: the folder of the images, flickr30k-images, by the form at "
    "https://shannon.cs.illinois.edu/DenotationGraph/",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    return _karpathy.karpathy_samples(split, annotations, images, ARGUMENTS, _karpathy.stem)
