"""The `prefixvlm` command: arguments go in, one of its subcommands runs."""

import argparse
import importlib
import pkgutil
from pathlib import Path

from prefixvlm.errors import one_sentence


def main() -> None:
    """Entry point."""
    one_sentence(_main)()


def _main() -> None:
    arguments = _parser().parse_args()
    arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefixvlm", description="Shards for training, and captions and answers from a trained checkpoint."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shards = commands.add_parser("shards", help="write the shards of a data set, or check a folder of them")
    shards.add_argument("name", choices=[*_sources(), "verify"], help="a data set; verify checks the folder at --out")
    shards.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the shards")
    shards.set_defaults(run=_shards)

    predict = commands.add_parser("predict", help="caption images, or answer a question about each")
    predict.add_argument("images", type=Path, nargs="+", metavar="IMAGE")
    predict.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run")
    predict.add_argument("--question", metavar="TEXT", help="what to answer; without it the images are captioned")
    predict.set_defaults(run=_predict)
    return parser


def _sources() -> list[str]:
    from prefixvlm.data import sources

    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(sources.__path__)]


def _shards(arguments: argparse.Namespace) -> None:
    from prefixvlm.data.manifest import verify
    from prefixvlm.data.writer import write_shards

    if arguments.name == "verify":
        verify(arguments.out)
        print(f"{arguments.out} is whole")
        return
    source = importlib.import_module(f"prefixvlm.data.sources.{arguments.name.replace('-', '_')}")
    splits = {split: source.samples(split) for split in source.SPLITS}
    manifest = write_shards(splits, arguments.out, source.SOURCE, source.LICENCE)
    for split in manifest.splits:
        print(f"{arguments.out}: {manifest.num_samples(split)} {split} samples")


def _predict(arguments: argparse.Namespace) -> None:
    from prefixvlm.serve.predictor import Predictor

    predictor = Predictor(arguments.ckpt)
    for path, text in zip(arguments.images, predictor(arguments.images, arguments.question), strict=True):
        print(f"{path}\t{text}")


if __name__ == "__main__":
    main()
