"""The command `prefixvlm shards`: a subcommand for each data set, `verify`, `index` and `show`."""

import argparse
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefixvlm.data import sources
from prefixvlm.data.image import ImageDecoder, decode_image
from prefixvlm.data.shards.index.command import add_index
from prefixvlm.data.shards.worker_pool import default_workers

KINDS = {int: int, int | None: int, float: float, float | None: float, str: str, str | None: str}  # of arguments
MAX_REASONS = 8  # that are listed
CODES = "Ends with exit code 0 if it is whole, and else with 2 and the list of its problems."


def add_shards(parser: argparse.ArgumentParser, with_plugins: bool = False) -> Any:
    """Add `NAME --out DIR` with the arguments of each data set, `verify`, `index` and `show`.

    with_plugins: the data sets of plug-ins too, whose modules are imported.
    Returns argparse's subparsers, to which others can be added.
    """
    names = parser.add_subparsers(required=True, metavar="NAME")
    for name in [*sources.names(), *(sources.plugin_names() if with_plugins else [])]:
        _add_source(names, name)
    verify = "find everything that is wrong with a folder of shards"
    _add_verify(names.add_parser("verify", help=verify, description=f"{verify[0].upper()}{verify[1:]}. {CODES}"))
    _add_workers(add_index(names))
    _add_show(names.add_parser("show", help="what a folder of shards holds, with a picture of some samples"))
    return names


def _add_source(names: Any, name: str) -> None:
    source = sources.load(name)
    about = f"{source.SOURCE}. Licence: {source.LICENCE}.\n\n{source.__doc__}"
    command = names.add_parser(
        name, help=source.SOURCE, description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for argument, parameter in sources.parameters(source).items():
        metavar, _, explanation = source.ARGUMENTS[argument].partition(": ")
        command.add_argument(
            sources.option(argument),
            type=KINDS.get(parameter.annotation, Path),
            required=parameter.default is inspect.Parameter.empty,
            metavar=metavar,
            help=explanation.replace("%", "%%"),
        )
    if source.ARGUMENTS and len(source.SPLITS) > 1:
        splits = f"only these of {', '.join(source.SPLITS)}; by default all splits whose files are given"
        command.add_argument("--splits", nargs="+", choices=source.SPLITS, metavar="SPLIT", help=splits)
    if source.TERMS:
        command.add_argument("--accept-terms", action="store_true", help=f"required by the terms: {source.TERMS}")
    if not sources.provides_tars(source):
        size = "make images smaller: the shorter side, in pixels; by default their bytes are not changed"
        command.add_argument("--image-size", type=int, metavar="S", help=size)
        quality = "re-encode images as JPEG of this quality, 1 to 100 (with --image-size, 90 by default)"
        command.add_argument("--image-quality", type=int, metavar="Q", help=quality)
        add_image_options(command)
        command.add_argument("--samples-per-shard", type=_positive, default=1000, metavar="N", help="default: 1000")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the shards")
    _add_workers(command)
    command.set_defaults(run=_write, dataset=name)


def add_image_options(command: argparse.ArgumentParser) -> None:
    """Add --background and --max-pixels, the options of ImageDecoder."""
    background = "the colour behind transparent pixels, as '#808080' (%(default)s)"
    command.add_argument("--background", default=decode_image.background, metavar="COLOUR", help=background)
    most = "larger images are left out (%(default)s)"
    command.add_argument("--max-pixels", type=int, default=decode_image.max_pixels, metavar="N", help=most)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _add_workers(command: argparse.ArgumentParser) -> None:
    workers = "number of processes (default: the number of cores, at most 8)"
    command.add_argument("--workers", type=_positive, default=default_workers(), metavar="N", help=workers)


def _add_folder(command: argparse.ArgumentParser, *names: str) -> None:
    command.add_argument(
        "folder", type=Path, nargs="?" if names else None, metavar="DIR", help="the folder of the shards"
    )
    if names:
        command.add_argument(*names, type=Path, metavar="DIR", dest="same_folder", help="the same")


def _add_verify(command: argparse.ArgumentParser) -> None:
    _add_folder(command, "--out")
    command.add_argument("--decode", action="store_true", help="also decode every image")
    _add_workers(command)
    command.set_defaults(run=_verify)


def _add_show(command: argparse.ArgumentParser) -> None:
    _add_folder(command)
    command.add_argument("--out", type=Path, metavar="PNG", help="the picture (default: DIR/sheet.png)")
    command.add_argument("--split", metavar="SPLIT", help="only this split")
    command.set_defaults(run=_show)


def _verify(arguments: argparse.Namespace) -> None:
    from prefixvlm.data.shards.verification.verify import verify_folder

    folder = arguments.folder or arguments.same_folder
    if folder is None or (arguments.same_folder or folder) != folder:
        given = "is not given" if folder is None else f"is both {folder} and {arguments.same_folder}"
        raise ValueError(f"the folder {given}; give one, as `prefixvlm shards verify DIR`")
    print(verify_folder(folder, arguments.decode, arguments.workers))


def _show(arguments: argparse.Namespace) -> None:
    from prefixvlm.data.shards.show import show

    sheet = arguments.out or arguments.folder / "sheet.png"
    print(show(arguments.folder, arguments.split, sheet))
    print(f"{sheet} shows some of them")


def _write(arguments: argparse.Namespace) -> None:
    source = sources.load(arguments.dataset)
    given = {name: value for name in source.ARGUMENTS if (value := getattr(arguments, name)) is not None}
    for name, value in given.items():
        if isinstance(value, Path) and not value.exists():
            raise ValueError(f"there is no {value}; {sources.option(name)} must be {source.ARGUMENTS[name]}")
    if source.TERMS and not arguments.accept_terms:
        print(source.TERMS)
        raise ValueError(f"{source.SOURCE} has the terms above; if you accept them, give --accept-terms as well")
    chosen = getattr(arguments, "splits", None)
    available = sources.splits(source, given)
    splits = [split for split in available if chosen is None or split in chosen]
    if missing := set(chosen or ()) - set(available):
        raise ValueError(f"there is nothing to write for {', '.join(sorted(missing))}, only for {', '.join(available)}")
    if sources.provides_tars(source):
        from prefixvlm.data.shards.link_tars import link_tars

        tars = {split: source.tars(split, **given) for split in splits}
        manifest = link_tars(tars, arguments.out, origin(source, given), source.LICENCE, arguments.workers)
    else:
        from prefixvlm.data.shards.reencode import ReencodeOptions
        from prefixvlm.data.shards.write import write_shards

        decoder = ImageDecoder(arguments.background, arguments.max_pixels)
        manifest = write_shards(
            {split: source.samples(split, **given) for split in splits},
            arguments.out,
            origin(source, given),
            source.LICENCE,
            arguments.samples_per_shard,
            arguments.workers,
            ReencodeOptions(arguments.image_size, arguments.image_quality, decoder),
        )
    thing = "tars are incomplete or" if sources.provides_tars(source) else "samples are"
    for split, content in manifest.splits.items():
        print(f"{arguments.out}: {manifest.num_samples(split)} {split} samples")
        if content.left_out:
            print(f"{len(content.left_out)} {split} {thing} left out; {arguments.out}/manifest.json names all:")
            print(*by_reason(content.left_out), sep="\n")


def by_reason(left_out: Mapping[str, str]) -> list[str]:
    """Return a line for each kind of reason, the most frequent first: its count and an example."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for key, reason in left_out.items():
        reason = reason.partition(f"sample {key}: ")[2] or reason
        # Numbers, names and paths differ between samples with the same fault.
        kinds.setdefault(re.sub(r"\S*[\d'\"/._]\S*", "", reason.replace(key, "")), []).append((key, reason))
    kinds_by_count = sorted(kinds.values(), key=len, reverse=True)
    lines = [f"  {len(kind)}: {kind[0][1]} (as {kind[0][0]})" for kind in kinds_by_count[:MAX_REASONS]]
    others = sum(map(len, kinds_by_count[MAX_REASONS:]))
    return [*lines, *([f"  {others}: other reasons"] if others else [])]


def origin(source: sources.DatasetSource, given: Mapping[str, Any]) -> str:
    """Describe the source and its arguments, so that shards of other files have another manifest."""
    from prefixvlm.data.shards.manifest import sha256

    texts = [source.SOURCE]
    for name, value in given.items():
        if isinstance(value, Path) and value.is_file():
            texts.append(f"{value.name} (sha256 {sha256(value)[:16]})")
        elif name != "images":
            texts.append(f"{name} {value.resolve().name if isinstance(value, Path) else value}")
    texts += [source.version(**given)] if hasattr(source, "version") else []
    return "; ".join(texts)
