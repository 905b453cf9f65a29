"""Features of the classes that an encoder was trained to tell apart, to train a mapper without an image."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm.data
import torch
from torch import nn

from prefixvlm.data.feature_codec import encode_npy
from prefixvlm.data.shards.manifest import Manifest, Split
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder
from prefixvlm.data.shards.tar_writer import SampleOrError, ShardJob, fingerprint
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.timm import TimmEncoder
from prefixvlm.features.encode_images import ImageShardEncoder
from prefixvlm.features.write import identify, make_features

LICENCE = "that of the encoder's weights; the names are WordNet's"
LOGIT = 8.0  # of the class itself, whose probability among EfficientNet-Lite0's 1000 classes is then 0.74 on average
VAL_STEP = 10  # a tenth of the classes is the val split


def write_class_names(encoder: ImageEncoder, node: dict[str, Any], out: Path) -> Manifest:
    """Write a folder of features without images: a sample for each class of the encoder's own classifier.

    The captions are "a NAME". The val split has classes of the train split, since the name of another class cannot be
    known: its loss shows how well the names are learned, and not how well images are captioned.
    node: the encoder's configuration. Raises ValueError unless the encoder gives the probabilities of known classes.
    """
    if not isinstance(encoder, TimmEncoder) or not encoder.classes or encoder.normalize:
        raise ValueError(
            "--class-names needs the probabilities of classes; set --encoder to efficientnet_lite0_classes, "
            "or to another of timm's and encoder.features=classes encoder.normalize=false"
        )
    samples = class_samples(encoder)
    splits = {"train": samples, "val": samples[::VAL_STEP]}
    source = f"the classes of {node['model_name']}, without images: {fingerprint(samples)[:16]}"
    expected = Manifest(source, LICENCE, len(samples), {split: Split() for split in splits})

    def jobs(staged: StagingFolder) -> Iterator[ShardJob]:
        for split, each in splits.items():
            path, sidecar = staged.shards / f"{split}-000000.tar", staged.done / f"{split}-000000.tar.json"
            yield ShardJob(split, path, sidecar, each, ReencodeOptions(), fingerprint(each), False)

    black = ImageShardEncoder(encoder, 1).black
    return make_features(expected, out, jobs, identify(encoder, node), black, sum(map(len, splits.values())))


@torch.no_grad()
def class_samples(encoder: TimmEncoder) -> list[SampleOrError]:
    """Return the samples: key, and members npy float16[1, classes] and json with the caption.

    The features of a class are the probabilities that the classifier gives its own row of weights, scaled so that the
    logit of the class is LOGIT: similar classes are likely too, as they are for an image.
    """
    layer, subset = encoder.visual.get_classifier(), timm.data.infer_imagenet_subset(encoder.visual)
    if not isinstance(layer, nn.Linear) or (layer.out_features != 1000 and subset is None):
        raise ValueError("the classes of this encoder have no known names: set --encoder to one for ImageNet's 1000")
    rows, info = layer.weight.float(), timm.data.ImageNetInfo(subset or "imagenet-1k")
    features = (LOGIT * (rows @ rows.T) / rows.square().sum(1, keepdim=True)).softmax(-1)[:, None].cpu().numpy()
    return [
        (f"class-{number:04d}", {"npy": encode_npy(row), "json": json.dumps({"captions": [caption]}).encode()})
        for number, row in enumerate(features)
        for caption in [caption_of(info.index_to_description(number))]
    ]


def caption_of(names: str) -> str:
    """Return the caption of a class, whose synonyms have commas between them; later ones are often Latin."""
    name = names.split(", ")[0]
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
