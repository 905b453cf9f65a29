"""Image shards and a frozen encoder go in; shards of its features, each image encoded once, come out."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prefixvlm.data.loading.mixture import Shards
from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Shard, Split, all_shards, read_manifest, sha256
from prefixvlm.data.shards.read import count_samples
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder
from prefixvlm.data.shards.tar_writer import ShardJob, write_tar
from prefixvlm.data.shards.write import already_there, make_shards
from prefixvlm.encoder.cached import IDENTITY, identity_of, local, write_identity
from prefixvlm.encoder.interface import Identity, ImageEncoder
from prefixvlm.features.encode_images import EncodedShard, ImageShardEncoder, Samples
from prefixvlm.model.trained_state import fingerprint


def write_features(
    encoder: ImageEncoder,
    node: dict[str, Any],
    shards: Path,
    out: Path,
    batch_size: int = 64,
    device: str = "auto",
    texts: Samples | None = None,
) -> Manifest:
    """Writes `out`: the shards of `shards` with an npy member, float16[N, D], in the place of each image.

    node: of the configuration, which built the encoder. Names, keys and texts stay. All is written or, whatever
    happens, nothing; shards that an interrupted run finished are not made again.
    texts: gives the samples in the place of the encoder, see features/encode_captions.py.
    Raises ValueError for an encoder that is trained or reads features itself, and where there are no image shards.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; set --batch-size to 1 or more")
    if encoder.trained or encoder.identity is not None:
        kind = "is trained, so its features would not stay" if encoder.trained else "reads stored features itself"
        raise ValueError(f"the encoder {kind}; features are computed by a frozen encoder that sees images")
    if not any(shards.glob("*.tar")) or identity_of(str(shards)) is not None:
        raise ValueError(f"--shards is {shards}, which is not a folder of image shards")
    images = read_manifest(shards) or _manifest_of(shards)
    encode = ImageShardEncoder(encoder.eval().to(device_of(device)), batch_size)
    identity = identify(encoder, node)
    listed = (shards / MANIFEST).is_file()
    known = {name: value for name, value in vars(identity).items() if name != "grid"}  # folders of old do not say it
    mark = _digest(known, sha256(shards / MANIFEST) if listed else images.to_json(), *(["texts"] if texts else []))
    of = "of the captions of" if texts else "of"
    wanted = Manifest(f"features {mark} {of}: {images.source}", images.licence, images.samples_per_shard,
                      {split: Split() for split in images.splits})  # fmt: skip

    def tasks(partial: StagingFolder) -> Iterator[ShardJob]:
        for split, content in images.splits.items():
            for shard in content.shards:
                encoded = EncodedShard(texts or encode.samples, shards / shard.name, shard.samples)
                path, sidecar = partial.shards / shard.name, partial.done / f"{shard.name}.json"
                yield ShardJob(split, path, sidecar, encoded, ReencodeOptions(), _digest(mark, shard.sha256))

    if found := already_there(out, wanted, "features", IDENTITY):
        return found
    staging = out.with_name(f".{out.name}.features")  # whole shards, until it also says whose features they hold
    total = sum(images.num_samples(split) for split in images.splits)
    made = make_shards(wanted, staging, tasks, write_tar, 1, total)
    write_identity(staging, identity, encode.black())
    staging.rename(out)
    return made


def _manifest_of(folder: Path) -> Manifest:
    """What a manifest would say of a folder of plain tars, whose names say their splits."""
    splits: dict[str, Split] = {}
    for split, path, _ in all_shards(folder):
        shard = Shard(path.name, count_samples(path), path.stat().st_size, sha256(path))
        splits.setdefault(split, Split()).shards.append(shard)
    return Manifest(f"the tars of {folder.resolve().name}", "see where they come from", 0, splits)


def identify(encoder: ImageEncoder, node: dict[str, Any]) -> Identity:
    """Whose features these will be. The fingerprint is the one that a checkpoint has of this encoder."""
    printed = re.sub(r" at 0x[0-9a-f]+", "", repr(encoder.transform))
    return Identity(
        node, fingerprint(encoder), _digest(printed), encoder.num_features, encoder.feature_width, encoder.grid
    )


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def device_of(name: str) -> torch.device:
    try:
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
        return torch.zeros(0, device=chosen).device
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without the device
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"--device is {name}, which cannot be had ({reason}); set auto or cpu") from error


def check_features(encoder: ImageEncoder, shards: Shards) -> None:
    """Raises ValueError if the encoder is not for what the shards hold: images, or features of just that encoder."""
    for folder in local(shards):
        found, wanted = identity_of(folder), encoder.identity
        if found is not None and wanted is None:
            raise ValueError(f"data.shards is {folder}, which holds features, not images; set encoder=cached")
        if found is None and wanted is not None:
            raise ValueError(
                f"encoder=cached reads features, but data.shards is {folder}, which holds none (no {IDENTITY}); set "
                "data.shards to a folder of features, or encoder to one that sees images"
            )
        if found != wanted:
            raise ValueError(
                f"data.shards is {folder}, whose features are of {found}, but encoder.features_of holds those of "
                f"{wanted}; set encoder.features_of to the same folder"
            )
