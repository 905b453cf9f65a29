"""Find images that come under several keys, in several splits above all, by their bytes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from prefixvlm.data.sample import IMAGE_EXTENSIONS
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.verification.check import Findings, hash64


def repeated_images(findings: Mapping[Path, Findings], split_of: Mapping[Path, str]) -> str:
    """Return a sentence with their number and an example, "" if there are none."""
    hashes, counts = np.unique(np.concatenate([each.images for each in findings.values()]), return_counts=True)
    repeated = hashes[counts > 1]
    if not len(repeated):
        return ""
    in_splits = np.zeros(len(repeated), int)
    for split in dict.fromkeys(split_of.values()):
        own = [np.asarray(each.images) for path, each in findings.items() if split_of[path] == split]
        in_splits += np.isin(repeated, np.concatenate(own))
    example = int(repeated[in_splits.argmax()])
    places = [f"{split_of[path]} {key}" for path in split_of for key in _keys(path, findings[path], example)]
    shared = int((in_splits > 1).sum())
    across = (
        f", {shared} of them in several splits, so that a test may be of images that were trained on" if shared else ""
    )
    return f"images under several keys: {len(repeated)}{across}; as {' and '.join([places[0], places[-1]])}"


def _keys(path: Path, findings: Findings, wanted: int) -> Iterator[str]:
    """Yield the keys of the samples of a shard with this image."""
    if wanted in findings.images:
        for key, members in read_shard(path):
            if any(hash64(data) == wanted for name, data in members.items() if name in IMAGE_EXTENSIONS):
                yield key
