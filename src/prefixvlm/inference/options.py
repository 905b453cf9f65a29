"""Options of the commands that load a checkpoint: where it is, on which device, in which precision."""

import argparse
from pathlib import Path


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Add --ckpt."""
    help_text = "a checkpoint of a run, an exported folder or a hub id"
    parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help=help_text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add --device."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (%(default)s)")


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add --dtype of the language model, by default that of the run."""
    parser.add_argument("--dtype", help="of the language model: float32, bfloat16, float16; default: the run's")
