"""The encoded images of samples for pages: from the shards that are read, or from those that features were made of."""

import logging
from collections.abc import Collection, Sequence

from prefixvlm.data.loading.shard_source import ShardRef, prefetched_paths
from prefixvlm.data.sample import IMAGE_EXTENSIONS
from prefixvlm.data.shards.lookup import cached_manifest
from prefixvlm.data.shards.read import read_shard

logger = logging.getLogger(__name__)


def encoded_images(shards: Sequence[ShardRef], keys: Collection[str]) -> dict[str, bytes]:
    """Return the encoded images of the samples with these keys, without those that are not found, which are logged."""
    wanted, images = set(keys), dict[str, bytes]()
    shown = [_of_images(shard) for shard in shards] if wanted else []
    for shard, path in zip(shown, prefetched_paths(shown), strict=True):
        for key, members in read_shard(path):
            image = next((members[name] for name in members if name in IMAGE_EXTENSIONS), None)
            if image is not None and shard.prefix + key in wanted:
                images[shard.prefix + key] = image
        if len(images) == len(wanted):
            break
    if missing := len(wanted) - len(images):
        logger.warning("%d of %d pictures are not shown: the shards hold none of them%s", missing, len(wanted),
                       _where(shards))  # fmt: skip
    return images


def _of_images(shard: ShardRef) -> ShardRef:
    """Return the shard of the images, if the shard has features of them and the images are still there."""
    # A shard of features has the name and the keys of that of the images.
    manifest = cached_manifest(shard.path.parent)
    path = shard.path.parent / manifest.images / shard.path.name if manifest and manifest.images else shard.path
    return ShardRef(path, shard.prefix) if path != shard.path and path.is_file() else shard


def _where(shards: Sequence[ShardRef]) -> str:
    """Return where the images of shards of features were, for the message that they are not there."""
    manifests = [cached_manifest(folder) for folder in dict.fromkeys(shard.path.parent for shard in shards)]
    folders = [manifest.images for manifest in manifests if manifest and manifest.images]
    return f"; their features were made of those in {folders[0]}, seen from the features" if folders else ""
