"""Flickr30k: Karpathy's dataset_flickr30k.json and the images go in, one sample an image comes out.

train, val and test (1,000); the key is the image's file name without extension.
"""

from pathlib import Path

from prefixvlm.data.sources import _karpathy
from prefixvlm.data.sources._files import Samples

SOURCE = "Flickr30k, https://shannon.cs.illinois.edu/DenotationGraph/, with Karpathy's splits"
LICENCE = "non-commercial research and education; see https://shannon.cs.illinois.edu/DenotationGraph/"
TERMS = _karpathy.FLICKR_TERMS
SPLITS = _karpathy.SPLITS
WANTED = {
    "annotations": f"dataset_flickr30k.json: Karpathy's splits, in {_karpathy.ZIP}",
    "images": "DIR: the folder of the images, flickr30k-images, by the form at "
    "https://shannon.cs.illinois.edu/DenotationGraph/",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    return _karpathy.karpathy_samples(split, annotations, images, WANTED, _karpathy.stem)
