"""The command `prefixvlm shards features`."""

import argparse
from pathlib import Path
from typing import Any

from prefixvlm.config import encoder_choice
from prefixvlm.data.image import ImageDecoder
from prefixvlm.data.shards.command import add_image_options
from prefixvlm.options.component_check import check


def add_features(names: Any) -> None:
    """Add `features` to the names of `prefixvlm shards`."""
    command = names.add_parser("features", help="encode images, captions or the names of classes once")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", type=Path, metavar="DIR", help="a folder of image shards")
    source.add_argument(
        "--class-names", action="store_true",
        help="no images: the classes of the encoder's classifier, with their names as captions",
    )  # fmt: skip
    command.add_argument(
        "--encoder", nargs="+", required=True, metavar=("NAME", "KEY=VALUE"),
        help="a choice of conf/encoder with overrides, as encoder.features=patch",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the feature shards")
    texts = "encode the captions in place of the images, a sample for each (CapDec)"
    command.add_argument("--texts", action="store_true", help=texts)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (%(default)s)")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in a batch (%(default)s)")
    add_image_options(command)
    command.set_defaults(run=_features)


def _features(arguments: argparse.Namespace) -> None:
    node = encoder_choice(arguments.encoder[0], arguments.encoder[1:])
    check("encoder", node, before_imports=True)
    if arguments.batch_size < 1:
        raise ValueError(f"batch_size is {arguments.batch_size}; set --batch-size to 1 or more")
    if arguments.class_names and arguments.texts:
        raise ValueError("--texts encodes the captions of --shards, and --class-names has none: give one of the two")
    if arguments.shards and not any(arguments.shards.glob("*.tar")):
        raise ValueError(f"--shards is {arguments.shards}, which is not a folder of image shards")

    from prefixvlm.build import make

    encoder = make("encoder", node)
    if arguments.class_names:
        from prefixvlm.features.class_names import write_class_names

        manifest = write_class_names(encoder, node, arguments.out)
    else:
        manifest = _encode(arguments, encoder, node)
    for split in manifest.splits:
        print(f"{arguments.out}: {manifest.num_samples(split)} {split} samples, each {encoder.num_features} x "
              f"{encoder.feature_width} features")  # fmt: skip


def _encode(arguments: argparse.Namespace, encoder: Any, node: dict[str, Any]) -> Any:
    from prefixvlm.features.write import write_features

    options, texts = (arguments.batch_size, arguments.device), None
    if arguments.texts:
        from prefixvlm.features.encode_captions import caption_encoder_for

        texts = caption_encoder_for(encoder, node, *options)
    decoder = ImageDecoder(arguments.background, arguments.max_pixels)
    return write_features(encoder, node, arguments.shards, arguments.out, *options, texts, decoder)
