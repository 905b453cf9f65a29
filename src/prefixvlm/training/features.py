"""Image shards and a frozen encoder go in; shards of its features, each image encoded once, come out."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prefixvlm.data.encode import Encoding
from prefixvlm.data.manifest import MANIFEST, Manifest, Shard, Split, all_shards, read_manifest, sha256
from prefixvlm.data.mixture import Shards
from prefixvlm.data.partial import Partial
from prefixvlm.data.shards import count_samples
from prefixvlm.data.tar import Task, write_tar
from prefixvlm.data.writer import already_there, make_shards
from prefixvlm.encoder.cached import IDENTITY, identity_of, local, write_identity
from prefixvlm.encoder.clip import Clip
from prefixvlm.encoder.interface import Identity, ImageEncoder
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.tower import RANDOM
from prefixvlm.model.freezing import fingerprint
from prefixvlm.training.encoded import Encode, Encoded, EncodeTexts


def write_features(
    encoder: ImageEncoder,
    node: dict[str, Any],
    shards: Path,
    out: Path,
    batch_size: int = 64,
    device: str = "auto",
    clip: Clip | None = None,
) -> Manifest:
    """Writes `out`: the shards of `shards` with an npy member, float16[N, D], in the place of each image.

    node: of the configuration, which built the encoder. Names, keys and texts stay. All is written or, whatever
    happens, nothing; shards that an interrupted run finished are not made again.
    clip: write a sample a caption, with the features of its text (CapDec); the encoder's own, see `clip_of`.
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
    encode = Encode(encoder.eval().to(_device(device)), batch_size)
    identity = identify(encoder, node)
    listed = (shards / MANIFEST).is_file()
    known = {name: value for name, value in vars(identity).items() if name != "grid"}  # folders of old do not say it
    mark = _digest(known, sha256(shards / MANIFEST) if listed else images.to_json(), *(["texts"] if clip else []))
    samples = EncodeTexts(clip.to(encode.device)).samples if clip else encode.samples
    of = "of the captions of" if clip else "of"
    wanted = Manifest(f"features {mark} {of}: {images.source}", images.licence, images.samples_per_shard,
                      {split: Split() for split in images.splits})  # fmt: skip

    def tasks(partial: Partial) -> Iterator[Task]:
        for split, content in images.splits.items():
            for shard in content.shards:
                encoded = Encoded(samples, shards / shard.name, shard.samples)
                path, sidecar = partial.shards / shard.name, partial.done / f"{shard.name}.json"
                yield Task(split, path, sidecar, encoded, Encoding(), _digest(mark, shard.sha256))

    if found := already_there(out, wanted, "features", IDENTITY):
        return found
    staging = out.with_name(f".{out.name}.features")  # whole shards, until it also says whose features they hold
    total = sum(images.num_samples(split) for split in images.splits)
    made = make_shards(wanted, staging, tasks, write_tar, 1, total)
    write_identity(staging, identity, encode.black())
    staging.rename(out)
    return made


def clip_of(encoder: ImageEncoder, node: dict[str, Any], batch_size: int = 64) -> Clip:
    """Both towers of an encoder, whose features of texts can stand for those of images.

    Raises ValueError for an encoder whose features do not lie beside those of texts: on the unit sphere of CLIP.
    """
    if not isinstance(encoder, OpenClipEncoder) or not encoder.pooled or not encoder.normalize:
        raise ValueError(
            "the features of texts lie beside an encoder's pooled and normalised ones of open_clip only; set --encoder "
            "to one of these and encoder.features=pooled encoder.normalize=true"
        )
    if node.get("pretrained") == RANDOM:
        raise ValueError("encoder.pretrained is random, whose features say nothing of texts; set it to a tag or a file")
    return Clip(node["model_name"], node.get("pretrained"), batch_size)


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


def _device(name: str) -> torch.device:
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
