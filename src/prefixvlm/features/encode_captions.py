"""A shard's captions and CLIP go in; samples of a caption each, with its features in an image's place, come out."""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from prefixvlm.data.feature_codec import encode_npy
from prefixvlm.data.sample import BLACK, decode
from prefixvlm.data.shards.read import read_shard
from prefixvlm.data.shards.tar_writer import SampleOrError
from prefixvlm.encoder.clip import Clip
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.openclip import OpenClipEncoder
from prefixvlm.encoder.pretrained import RANDOM
from prefixvlm.features.write import device_of


class CaptionShardEncoder:
    """Samples with captions to samples with one caption each, whose features are in the place of the image's (CapDec).

    KEY becomes KEY-0, KEY-1, ...; CLIP's features of texts have norm 1.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def __call__(self, path: Path) -> Iterator[SampleOrError]:
        """Of a shard; instead of a sample that has no captions, or does not decode, comes the error."""
        raw = read_shard(path)
        while group := list(islice(raw, self.clip.batch_size)):
            captions = {key: _captions(key, members, path.name) for key, members in group}
            texts = [text for found in captions.values() if not isinstance(found, ValueError) for text in found]
            features = iter(self.clip.text_features(texts)[:, None].numpy() if texts else ())
            for key, found in captions.items():
                if isinstance(found, ValueError):
                    yield key, found
                    continue
                for number, text in enumerate(found):
                    content = json.dumps({"captions": [text]}).encode()
                    yield f"{key}-{number}", {"npy": encode_npy(next(features)), "json": content}


def texts_of(
    encoder: ImageEncoder, node: dict[str, Any], batch_size: int = 64, device: str = "auto"
) -> CaptionShardEncoder:
    """By the text tower beside an encoder, whose features can stand for those of images.

    Raises ValueError for an encoder whose features do not lie beside those of texts: on the unit sphere of CLIP.
    """
    if not isinstance(encoder, OpenClipEncoder) or not encoder.pooled or not encoder.normalize:
        raise ValueError(
            "the features of texts lie beside an encoder's pooled and normalised ones of open_clip only; set --encoder "
            "to one of these and encoder.features=pooled encoder.normalize=true"
        )
    if node.get("pretrained") == RANDOM:
        raise ValueError("encoder.pretrained is random, whose features say nothing of texts; set it to a tag or a file")
    return CaptionShardEncoder(Clip(node["model_name"], node.get("pretrained"), batch_size).to(device_of(device)))


def _captions(key: str, members: dict[str, bytes], where: str) -> Sequence[str] | ValueError:
    try:
        return decode(key, members, where, BLACK).captions or ValueError("it has no caption")
    except ValueError as error:
        return error
