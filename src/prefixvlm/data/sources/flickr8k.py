"""Flickr8k with Karpathy's splits: one sample for each image.

train, val and test (1,000). The key is the file name of the image without its extension.
"""

from pathlib import Path

from prefixvlm.data.sources import _karpathy
from prefixvlm.data.sources._files import Samples

SOURCE = "Flickr8k, https://forms.illinois.edu/sec/1713398, with Karpathy's splits"
LICENCE = "see https://forms.illinois.edu/sec/1713398"
TERMS = _karpathy.FLICKR_TERMS
SPLITS = _karpathy.SPLITS
ARGUMENTS = {
    "annotations": f"dataset_flickr8k.json: Karpathy's splits, in {_karpathy.ZIP}",
    "images": "DIR: the folder of the images, Flicker8k_Dataset, by the form at https://forms.illinois.edu/sec/1713398",
}


def samples(split: str, annotations: Path, images: Path) -> Samples:
    return _karpathy.karpathy_samples(split, annotations, images, ARGUMENTS, _karpathy.stem)
