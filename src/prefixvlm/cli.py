"""The `prefixvlm` command: arguments go in, one of its subcommands runs."""

import argparse
from pathlib import Path

from prefixvlm.data.command import add_shards
from prefixvlm.errors import one_sentence
from prefixvlm.metrics.command import add_score


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
    add_shards(shards)

    score = commands.add_parser("score", help="score the files of any system, or compare two evaluations")
    add_score(score)

    predict = commands.add_parser("predict", help="caption images, or answer a question about each")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run")
    predict.add_argument("--question", metavar="TEXT", help="what to answer; without it the images are captioned")
    predict.set_defaults(run=_predict)
    return parser


def _predict(arguments: argparse.Namespace) -> None:
    from prefixvlm.serve.predictor import Predictor

    predictor = Predictor(arguments.ckpt)
    for path, text in zip(arguments.images, predictor(arguments.images, arguments.question), strict=True):
        print(f"{path}\t{text}")


if __name__ == "__main__":
    main()
