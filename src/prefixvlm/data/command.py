"""`prefixvlm shards`: its parser goes in; each data set's options are added, and the shards are written or verified."""

import argparse
import inspect
from pathlib import Path
from typing import Any

from prefixvlm.data import sources


def add_shards(parser: argparse.ArgumentParser) -> None:
    """`prefixvlm shards NAME --out DIR` with the arguments that the data set wants, and `prefixvlm shards verify`."""
    names = parser.add_subparsers(required=True, metavar="NAME")
    for name in sources.names():
        source = sources.load(name)
        command = names.add_parser(name, help=source.SOURCE, description=f"{source.SOURCE}. Licence: {source.LICENCE}.")
        for argument, parameter in sources.parameters(source).items():
            metavar, _, explanation = source.WANTED[argument].partition(": ")
            command.add_argument(
                sources.option(argument),
                type=int if parameter.annotation in (int, int | None) else Path,
                required=parameter.default is inspect.Parameter.empty,
                metavar=metavar,
                help=explanation.replace("%", "%%"),
            )
        if source.WANTED and len(source.SPLITS) > 1:
            splits = f"only these of {', '.join(source.SPLITS)}; without it, all that their files are given for"
            command.add_argument("--splits", nargs="+", choices=source.SPLITS, metavar="SPLIT", help=splits)
        _finish(command, name)
    _finish(names.add_parser("verify", help="check a folder of shards against its manifest"), "verify")


def _finish(command: argparse.ArgumentParser, name: str) -> None:
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the shards")
    command.set_defaults(run=_verify if name == "verify" else _write, source=name)


def _verify(arguments: argparse.Namespace) -> None:
    from prefixvlm.data.manifest import verify

    verify(arguments.out)
    print(f"{arguments.out} is whole")


def _write(arguments: argparse.Namespace) -> None:
    from prefixvlm.data.writer import write_shards

    source = sources.load(arguments.source)
    given = {name: value for name in source.WANTED if (value := getattr(arguments, name)) is not None}
    for name, value in given.items():
        if isinstance(value, Path) and not value.exists():
            raise ValueError(f"there is no {value}; {sources.option(name)} wants {source.WANTED[name]}")
    chosen = getattr(arguments, "splits", None) or sources.splits(source, given)
    splits = {split: source.samples(split, **given) for split in source.SPLITS if split in chosen}
    manifest = write_shards(splits, arguments.out, _origin(source, given), source.LICENCE)
    for split, content in manifest.splits.items():
        print(f"{arguments.out}: {manifest.num_samples(split)} {split} samples")
        if content.left_out:
            print(f"{len(content.left_out)} {split} samples are left out; {arguments.out}/manifest.json says why")


def _origin(source: sources.Source, given: dict[str, Any]) -> str:
    """The source and what was given, so that shards made from other files are not taken for these."""
    from prefixvlm.data.manifest import sha256

    texts = [source.SOURCE]
    for name, value in given.items():
        if isinstance(value, Path) and value.is_file():
            texts.append(f"{value.name} (sha256 {sha256(value)[:16]})")
        elif name != "images":
            texts.append(f"{name} {value.resolve().name if isinstance(value, Path) else value}")
    return "; ".join(texts)
