"""Flickr8k: Karpathy's dataset_flickr8k.json and the images go in, one sample an image comes out.

train, val and test (1,000); the key is the image's file name without extension.
"""

from pathlib import Path

from prefixvlm.data.sources import _karpathy
from prefixvlm.data.sources._files import Samples

SOURCE = "Flickr8k, https://forms.illinois.edu/sec/1713398, with Karpathy's splits"
LICENCE = "see https://forms.illinois.edu/sec/1713398"
TERMS = _karpathy.FLICKR_TERMS
SPLITS = _karpathy.SPLITS
WANTED = {
    "annotations": f"dataset_flickr8k.json: Karpathy's splits, in {_karpathy.ZIP}",
    "images": "DIR: the folder of the images, Flicker8k_Dataset, by the form at https://forms.illinois.edu/sec/1713398",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    return _karpathy.karpathy_samples(split, annotations, images, WANTED, _karpathy.stem)
