"""The command `prefixvlm shards index`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from prefixvlm.data.remote import is_remote

MAX_LISTED = 20  # damaged shards


def add_index(names: Any) -> argparse.ArgumentParser:
    """Add `index SHARDS` to the subcommands of `shards`, and return its parser."""
    about = "write the manifest of shards that have none, in a folder or at URLs"
    command: argparse.ArgumentParser = names.add_parser(
        "index",
        help=about,
        description=f"{about[0].upper()}{about[1:]}, so that they need not be counted, or all fetched for that, when a "
        "run starts. No tar is copied or changed. The same command goes on after an interruption. Ends with exit code "
        "1 if damaged tars were left out.",
    )
    places = "a folder of tars, or a pattern of URLs such as https://host/{split}-{000000..000012}.tar"
    command.add_argument("shards", metavar="SHARDS", help=places)
    out = "the folder of the manifest, for data.shards; by default, and only for a folder of tars, that folder"
    command.add_argument("--out", type=Path, metavar="DIR", help=out)
    splits = "those of {split} in the pattern; by default all of train, val, test whose first tar exists"
    command.add_argument("--splits", nargs="+", metavar="SPLIT", help=splits)
    for name, which in (("val", "the last N tars are val"), ("test", "the N tars before these are test")):
        text = f"{which}; for tars without a split in their names, which are train"
        command.add_argument(f"--{name}-tars", type=int, default=0, metavar="N", help=text)
    command.add_argument("--licence", default="see where they come from", metavar="TEXT", help="for the manifest")
    command.set_defaults(run=_index)
    return command


def _index(arguments: argparse.Namespace) -> None:
    if min(arguments.val_tars, arguments.test_tars) < 0:
        raise ValueError("--val-tars and --test-tars are numbers of tars; set them to 0 or more")
    remote = is_remote(arguments.shards)
    if remote and arguments.out is None:
        raise ValueError("--out is not given; shards at URLs need a folder for their manifest, which data.shards names")
    if not remote and arguments.out not in (None, Path(arguments.shards)):
        raise ValueError(f"--out is {arguments.out}; the manifest of a folder stands in it, so leave --out away")
    if remote and arguments.out.is_dir() and any(arguments.out.glob("*.tar")):
        raise ValueError(f"--out is {arguments.out}, which holds tars; give a folder of its own")

    from prefixvlm.data.shards.index.index import index_shards
    from prefixvlm.data.shards.index.tars import find_tars

    tars = find_tars(arguments.shards, arguments.splits, arguments.val_tars, arguments.test_tars)
    out = arguments.out or Path(arguments.shards)
    source = f"the tars of {arguments.shards if remote else out.resolve().name}"
    manifest = index_shards(tars, out, source, arguments.licence, arguments.workers)
    for split in manifest.splits:
        print(f"{out}: {manifest.num_samples(split)} {split} samples; set data.shards={out}")
    left_out = [reason for split in manifest.splits.values() for reason in split.left_out.values()]
    if left_out:
        print(f"{len(left_out)} damaged or missing tars are left out; {out}/manifest.json names all:", file=sys.stderr)
        print(*(f"  {reason}" for reason in left_out[:MAX_LISTED]), sep="\n", file=sys.stderr)
        sys.exit(1)
