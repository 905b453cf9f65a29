"""Features of the classes that an encoder was trained to tell apart, to train a mapper without an image."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from prefixvlm.data.feature_codec import encode_npy
from prefixvlm.data.shards.manifest import Manifest, Split
from prefixvlm.data.shards.reencode import ReencodeOptions
from prefixvlm.data.shards.staging import StagingFolder
from prefixvlm.data.shards.tar_writer import SampleOrError, ShardJob, fingerprint
from prefixvlm.encoder.classifier import classifier_of
from prefixvlm.encoder.interface import ImageEncoder
from prefixvlm.encoder.timm import TimmEncoder
from prefixvlm.features.encode_images import ImageShardEncoder
from prefixvlm.features.write import identify, make_features

VAL_STEP = 10  # a tenth of the classes is the val split
LICENCE = "that of the encoder's weights; the names are WordNet's"


def write_class_names(encoder: ImageEncoder, node: dict[str, Any], out: Path) -> Manifest:
    """Write a folder of features without images: a sample for each class of the encoder's own classifier.

    The feature of a class is the mean of the features plus the class's row of the classifier, made as long as the mean:
    the classifier prefers the class whose row has the largest dot product with a feature. The captions are "a NAME",
    one for each synonym. The val split has classes of the train split, since the name of another class cannot be known:
    its loss shows how well the names are learned, and not how well images are captioned.
    node: the encoder's configuration. Raises ValueError if the encoder is not a frozen, pooled one of timm's, or if
    classifier_of does.
    """
    if not isinstance(encoder, TimmEncoder) or encoder.trained or not encoder.pooled or encoder.normalize:
        raise ValueError(
            "only the pooled features of timm's frozen encoders, as they are, are the input of a classifier; set "
            "--encoder to one of these and encoder.features=pooled encoder.normalize=false"
        )
    samples = class_samples(encoder, node)
    splits = {"train": samples, "val": samples[::VAL_STEP]}
    source = f"the classes of {node['model_name']}, without images: {fingerprint(samples)[:16]}"
    expected = Manifest(source, LICENCE, len(samples), {split: Split() for split in splits})

    def jobs(staged: StagingFolder) -> Iterator[ShardJob]:
        for split, each in splits.items():
            path, sidecar = staged.shards / f"{split}-000000.tar", staged.done / f"{split}-000000.tar.json"
            yield ShardJob(split, path, sidecar, each, ReencodeOptions(), fingerprint(each), False)

    black = ImageShardEncoder(encoder, 1).black()
    return make_features(expected, out, jobs, identify(encoder, node), black, sum(map(len, splits.values())))


def class_samples(encoder: TimmEncoder, node: dict[str, Any]) -> list[SampleOrError]:
    """Return the samples: key, and members npy float16[1, D] and json with the captions."""
    classifier = classifier_of(node["model_name"], node["pretrained"], encoder.image_size)
    features = classifier.mean + classifier.mean.norm() * F.normalize(classifier.rows, dim=-1)
    return [
        (f"class-{number:04d}", {"npy": encode_npy(row), "json": json.dumps({"captions": captions(name)}).encode()})
        for number, (row, name) in enumerate(zip(features[:, None].numpy(), classifier.names, strict=True))
    ]


def captions(names: str) -> list[str]:
    """Return the caption of a class, whose synonyms have commas between them; later ones are often Latin."""
    name = names.split(", ")[0]
    return [f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"]
