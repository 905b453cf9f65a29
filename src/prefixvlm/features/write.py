"""Writes shards of image features, computed once by a frozen encoder."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefixvlm.atomic import write_text
from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.loading.mixture import Shards
from prefixvlm.data.shards.manifest import MANIFEST, Manifest, Shard, Split, read_manifest, sha256
from prefixvlm.data.shards.read import count_samples
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.resolve import all_shards
from prefixvlm.data.shards.staging import StagingFolder
from prefixvlm.data.shards.tar_writer import ShardJob, write_tar
from prefixvlm.data.shards.write import existing_manifest, make_shards
from prefixvlm.encoder.cached import IDENTITY, local_shards, read_identity, write_identity
from prefixvlm.encoder.interface import Identity, ImageEncoder
from prefixvlm.features.encode_images import EncodedShard, Features, ImageShardEncoder, Samples, device_of
from prefixvlm.model.trained_state import fingerprint


def write_features(
    encoder: ImageEncoder,
    node: dict[str, Any],
    shards: Path,
    out: Path,
    batch_size: int = 64,
    device: str = "auto",
    captions: Samples | None = None,
    decoder: ImageDecoder = decode_image,
) -> Manifest:
    """Write the shards of `shards` to `out`, with an npy member, float16[N, D], in the place of each image.

    Names, keys and texts stay. `out` appears when it is complete; an interrupted run continues after its last shard.
    node: the encoder's configuration. captions: samples to write instead (encode_captions.py). decoder: of the images.
    Raises ValueError if the encoder is trained or reads features itself, or if `shards` has no image shards.
    """
    _check_arguments(encoder, shards, batch_size)
    images = read_manifest(shards) or _manifest_of(shards)
    encode = ImageShardEncoder(encoder.eval().to(device_of(device)), batch_size, decoder)
    identity = identify(encoder, node)
    mark = _mark(identity, shards, images, captions is not None)
    source = f"features {mark} of{' the captions of' if captions else ''}: {images.source}"
    expected = replace(images, source=source, splits={s: Split() for s in images.splits}, options=decoder.changes())
    expected.images = "" if captions else _seen_from(out, shards)  # samples of captions have no image

    def jobs(staged: StagingFolder) -> Iterator[ShardJob]:
        for split, content in images.splits.items():
            for shard in content.shards:
                encoded = EncodedShard(captions or encode.samples, shards / shard.name, shard.samples)
                path, sidecar = staged.shards / shard.name, staged.done / f"{shard.name}.json"
                yield ShardJob(split, path, sidecar, encoded, ReencodeOptions(), _digest(mark, shard.sha256), False)

    total = sum(map(images.num_samples, images.splits))
    return make_features(expected, out, jobs, identity, encode.black, total)


def make_features(
    expected: Manifest,
    out: Path,
    jobs: Callable[[StagingFolder], Iterable[ShardJob]],
    identity: Identity,
    black: Callable[[], Features],
    total: int,
) -> Manifest:
    """Write the shards of the jobs to `out` with the identity of their encoder; see make_shards.

    black: computes the features of a black image.
    """
    if existing := existing_manifest(out, expected, "features", IDENTITY):
        return _with_images(existing, expected.images, out)
    # Not in `out`: shards without the identity of their encoder would be taken for images.
    staging = out.with_name(f".{out.name}.features")
    manifest = make_shards(expected, staging, jobs, write_tar, 1, total)
    write_identity(staging, identity, black())
    staging.rename(out)
    return manifest


def _seen_from(out: Path, shards: Path) -> str:
    # Relative, so that both folders can be moved together.
    return os.path.relpath(shards.resolve(), out.parent.resolve() / out.name)


def _with_images(manifest: Manifest, folder: str, out: Path) -> Manifest:
    """Return a manifest of features that names the folder of the images, and write it if that is new.

    The images have been moved then, or an earlier version has written the features.
    """
    named = replace(manifest, images=folder)
    if named != manifest:
        write_text(out / MANIFEST, named.to_json())
    return named


def _check_arguments(encoder: ImageEncoder, shards: Path, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; set --batch-size to 1 or more")
    if encoder.trained or encoder.reads_features:
        kind = "is trained, so its features would change" if encoder.trained else "reads stored features itself"
        raise ValueError(f"the encoder {kind}; features are computed by a frozen encoder of images")
    if not any(shards.glob("*.tar")) or read_identity(str(shards)) is not None:
        raise ValueError(f"--shards is {shards}, which is not a folder of image shards")


def _manifest_of(folder: Path) -> Manifest:
    """Return the manifest of a folder of plain tars, which are named after their splits."""
    splits: dict[str, Split] = {}
    for split, path, _ in all_shards(folder):
        shard = Shard(path.name, count_samples(path), path.stat().st_size, sha256(path))
        splits.setdefault(split, Split()).shards.append(shard)
    return Manifest(f"the tars of {folder.resolve().name}", "see where they come from", 0, splits)


def _mark(identity: Identity, shards: Path, images: Manifest, is_of_captions: bool) -> str:
    """Return a hash of all that the features depend on, so that no others are taken for them."""
    known = {name: value for name, value in vars(identity).items() if name != "grid"}  # older folders do not store it
    source = sha256(shards / MANIFEST) if (shards / MANIFEST).is_file() else images.to_json()
    return _digest(known, source, *(["texts"] if is_of_captions else []))


def identify(encoder: ImageEncoder, node: dict[str, Any]) -> Identity:
    """Return the identity of an encoder's features, with the fingerprint that a checkpoint stores of the encoder."""
    transform = re.sub(r" at 0x[0-9a-f]+", "", repr(encoder.transform))  # addresses differ in each process
    return Identity(
        node, fingerprint(encoder), _digest(transform), encoder.num_features, encoder.feature_width, encoder.grid
    )


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def check_features(encoder: ImageEncoder, shards: Shards) -> None:
    """Raise ValueError unless the shards hold what the encoder reads: images, or the features of that encoder."""
    for folder in local_shards(shards):
        stored, expected = read_identity(folder), encoder.identity
        if stored is not None and expected is None:
            raise ValueError(f"data.shards is {folder}, which holds features, not images; set encoder=cached")
        if stored is None and expected is not None:
            raise ValueError(
                f"encoder=cached reads features, but data.shards is {folder}, which holds none (no {IDENTITY}); set "
                "data.shards to a folder of features, or encoder to one of images"
            )
        if stored != expected:
            raise ValueError(
                f"data.shards is {folder}, with features of {stored}, but encoder.features_of holds those of "
                f"{expected}; set encoder.features_of to the same folder"
            )
