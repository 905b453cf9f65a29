"""Encodes captions with CLIP's text encoder, to train on texts in the place of images (CapDec)."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from prefixvlm.data.feature_codec import encode_npy
from prefixvlm.data.sample import BLACK_IMAGE, decode
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.tar_writer import SampleOrError
from prefixvlm.encoder.clip import Clip
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.loading import RANDOM
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.features.encode_images import device_of


class CaptionShardEncoder:
    """Yields a sample for each caption of a shard, with the text features of the caption as its image features.

    The captions of sample KEY become the samples KEY-0, KEY-1, ... CLIP's text features are normalised.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def __call__(self, path: Path) -> Iterator[SampleOrError]:
        """Yield the samples of a shard; a ValueError for each sample that has no caption or does not decode."""
        raw = read_shard(path)
        while group := list(islice(raw, self.clip.batch_size)):
            captions = {key: _captions(key, members, path.name) for key, members in group}
            texts = [text for each in captions.values() if not isinstance(each, ValueError) for text in each]
            features = iter(self.clip.text_features(texts)[:, None].numpy() if texts else ())
            for key, each in captions.items():
                if isinstance(each, ValueError):
                    yield key, each
                    continue
                for number, text in enumerate(each):
                    content = json.dumps({"captions": [text]}).encode()
                    yield f"{key}-{number}", {"npy": encode_npy(next(features)), "json": content}


def caption_encoder_for(
    encoder: ImageEncoder, node: dict[str, Any], batch_size: int = 64, device: str = "auto"
) -> CaptionShardEncoder:
    """Return the encoder of captions that belongs to an image encoder.

    node: the configuration of the image encoder.
    Raises ValueError if its features are not in the joint space of images and texts: CLIP's normalised, pooled ones.
    """
    if not isinstance(encoder, OpenClipEncoder) or not encoder.pooled or not encoder.normalize:
        raise ValueError(
            "only the pooled and normalised features of open_clip's encoders share a space with those of texts; set "
            "--encoder to one of these and encoder.features=pooled encoder.normalize=true"
        )
    if node.get("pretrained") == RANDOM:
        raise ValueError(
            "encoder.pretrained is random, and random features of images and texts are unrelated; set it to a tag or a "
            "file"
        )
    return CaptionShardEncoder(Clip(node["model_name"], node.get("pretrained"), batch_size).to(device_of(device)))


def _captions(key: str, members: dict[str, bytes], where: str) -> Sequence[str] | ValueError:
    try:
        # The image is not decoded: its features are replaced.
        return decode(key, members, where, BLACK_IMAGE).captions or ValueError("it has no caption")
    except ValueError as error:
        return error
