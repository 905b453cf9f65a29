"""The `prefixvlm` command: arguments go in, one of its subcommands runs."""

import argparse
from pathlib import Path
from typing import Any

from prefixvlm.data.command import add_shards
from prefixvlm.errors import one_sentence
from prefixvlm.metrics.command import add_score
from prefixvlm.sweep.command import add_sweep


def main() -> None:
    """Entry point."""
    one_sentence(_main)()


def _main() -> None:
    arguments = _parser().parse_args()
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefixvlm", description="Shards for training, scores, and captions and answers from a trained checkpoint."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shards = commands.add_parser("shards", help="write the shards of a data set, or check a folder of them")
    _add_features(add_shards(shards))

    score = commands.add_parser("score", help="score the files of any system, or compare two evaluations")
    add_score(score)

    add_sweep(commands.add_parser("sweep", help="compare the jobs of a sweep"))

    predict = commands.add_parser("predict", help="caption images, or answer a question about each")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run")
    predict.add_argument("--question", metavar="TEXT", help="what to answer; without it the images are captioned")
    predict.set_defaults(run=_predict)
    return parser


def _add_features(names: Any) -> None:
    command = names.add_parser("features", help="run a frozen image encoder once over the images of a folder of shards")
    command.add_argument("--shards", type=Path, required=True, metavar="DIR", help="a folder of image shards")
    command.add_argument(
        "--encoder", nargs="+", required=True, metavar=("NAME", "KEY=VALUE"),
        help="a choice of conf/encoder, and what of it is changed, as encoder.features=patch",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the feature shards")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (%(default)s)")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at once (%(default)s)")
    command.set_defaults(run=_features)


def _features(arguments: argparse.Namespace) -> None:
    from prefixvlm.build import encoder_choice, make
    from prefixvlm.training.features import write_features

    node = encoder_choice(arguments.encoder[0], arguments.encoder[1:])
    encoder = make("encoder", node)
    manifest = write_features(encoder, node, arguments.shards, arguments.out, arguments.batch_size, arguments.device)
    for split in manifest.splits:
        print(f"{arguments.out}: {manifest.num_samples(split)} {split} samples, each {encoder.num_features} x "
              f"{encoder.feature_width} features")  # fmt: skip


def _predict(arguments: argparse.Namespace) -> None:
    from prefixvlm.serve.predictor import Predictor

    predictor = Predictor(arguments.ckpt)
    for path, text in zip(arguments.images, predictor(arguments.images, arguments.question), strict=True):
        print(f"{path}\t{text}")


if __name__ == "__main__":
    main()
