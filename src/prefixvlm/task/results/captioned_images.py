"""The images of shards that have captions, to find those that are like another image."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from prefixvlm.batch import ImageOrFeatures
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.sample import decode
from prefixvlm.data.shards.read import read_shard


def captioned_images(
    paths: Sequence[Path], decoder: ImageDecoder, captions: list[tuple[str, ...]]
) -> Iterator[ImageOrFeatures]:
    """Yield the images of shards that have captions, and append the captions of each."""
    for path in paths:
        for key, members in read_shard(path):
            sample = decode(key, members, path.name, decoder=decoder)
            if sample.captions:
                captions.append(sample.captions)
                yield sample.image
