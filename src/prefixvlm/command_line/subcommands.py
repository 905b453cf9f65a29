"""The subcommands of `prefixvlm`."""

import argparse
import errno
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prefixvlm import plugins
from prefixvlm.command_line.features import add_features
from prefixvlm.config import compose_run, encoder_choice
from prefixvlm.data.shards.command import add_shards
from prefixvlm.errors import one_sentence
from prefixvlm.export.command import add_export
from prefixvlm.inference.command import add_predict
from prefixvlm.inspect.command import add_inspect
from prefixvlm.metrics.command import add_score
from prefixvlm.options.component_check import check
from prefixvlm.serve.command import add_serve
from prefixvlm.serve.feedback_command import add_feedback
from prefixvlm.sweep.command import add_sweep


def run_command() -> None:
    """Run the command line of this process."""
    one_sentence(_main)()


def _main() -> None:
    # The data sets of plug-ins are subcommands of `shards`, so plug-ins are known before the arguments are parsed.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_plugins(first)
    known, rest = first.parse_known_args()
    plugins.enable(known.plugins)
    arguments = _parser(with_plugins=rest[:1] == ["shards"]).parse_args()
    arguments.run(arguments)


def _add_plugins(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--plugins", type=lambda text: text.split(","), default=[], metavar="MODULE[,MODULE]",
        help="before the command: your own modules, whose classes and data sets can then be used",
    )  # fmt: skip


def _parser(with_plugins: bool = False) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefixvlm",
        description="Write shards, score predictions, describe runs, and use trained checkpoints.",
        allow_abbrev=False,
    )
    _add_plugins(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    shards = commands.add_parser("shards", help="write the shards of a data set, or check a folder of them")
    add_features(add_shards(shards, with_plugins))

    for name, add, text in (
        ("score", add_score, "score prediction files of any system, or compare two evaluations"),
        ("sweep", add_sweep, "compare the jobs of a sweep"),
        ("predict", add_predict, "caption images or answer questions with a checkpoint"),
        ("serve", add_serve, "an HTTP server with a page for a checkpoint, and OpenAI's endpoints"),
        ("inspect", add_inspect, "write a page about why a checkpoint says what it says about an image"),
        ("feedback", add_feedback, "what the corrections say that `prefixvlm serve` has collected"),
        ("export", add_export, "write a checkpoint for the Hugging Face hub, or for other runtimes"),
    ):
        add(commands.add_parser(name, help=text))

    merge = commands.add_parser("merge", help="merge LoRA into the language model that it was trained on")
    merge.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run with tune")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder: lm/ and merged.ckpt")
    merge.set_defaults(run=_merge)

    describe = commands.add_parser("describe", help="show what train.py would train, without reading any weights")
    describe.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as for train.py: experiment=frozen")
    describe.add_argument("--json", action="store_true", help="print JSON")
    describe.set_defaults(run=_describe)

    clipcap = commands.add_parser("import-clipcap", help="convert the weights of ClipCap's own code to a checkpoint")
    _add_import_clipcap(clipcap)

    convert = commands.add_parser("convert-lm", help="convert the packaged SmolLM2 now, and not at its first use")
    convert.set_defaults(run=_convert_lm)
    return parser


def _add_import_clipcap(command: Any) -> None:
    command.add_argument("weights", type=Path, metavar="FILE", help="ClipCap's weights: a state dict, with its GPT-2")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder: lm/ and clipcap.ckpt")
    command.add_argument(
        "--encoder", nargs="+", default=[None], metavar=("NAME", "KEY=VALUE"),
        help="a choice of conf/encoder with overrides; default: by the width of the features",
    )  # fmt: skip
    command.add_argument(
        "--normalize", action="store_true", help="the features were divided by their norm, as for ClipCap's transformer"
    )
    command.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="a local folder or a hub id (%(default)s)")
    command.add_argument("--num-heads", type=int, metavar="N", help="heads of GPT-2; default: its width / 64")
    command.set_defaults(run=_import_clipcap)


def _merge(arguments: argparse.Namespace) -> None:
    _check_files(arguments.ckpt, arguments.out)

    from prefixvlm.build import build_merged
    from prefixvlm.convert.merge import merge

    merge(arguments.ckpt, arguments.out, build_merged)
    print(f"{arguments.out}: lm for transformers, merged.ckpt for eval.py and prefixvlm predict")


def _describe(arguments: argparse.Namespace) -> None:
    cfg = compose_run(arguments.overrides)
    for axis, node in cfg.items():
        check(str(axis), OmegaConf.to_container(node) if OmegaConf.is_config(node) else node, before_imports=True)

    from prefixvlm.describe import describe, text_description

    description = describe(cfg)
    print(json.dumps(description, indent=1) if arguments.json else text_description(description))


def _import_clipcap(arguments: argparse.Namespace) -> None:
    name, *changes = arguments.encoder
    _check_files(arguments.weights, arguments.out)
    if name:
        check("encoder", encoder_choice(name, changes), before_imports=True)

    import torch

    from prefixvlm.build import make, stored_config
    from prefixvlm.convert.clipcap import write_clipcap
    from prefixvlm.convert.clipcap_weights import read_clipcap

    weights = read_clipcap(arguments.weights)
    cfg = compose_run([*weights.overrides(name, arguments.normalize), *changes])
    with torch.device("meta"):  # only the shapes are needed, so nothing is downloaded
        encoder = make("encoder", cfg.encoder)
    widths = {"feature_width": weights.feature_width, "num_features": 1, "lm_width": weights.lm_width}
    mapper = make("mapper", cfg.mapper, **widths, grid=None)
    write_clipcap(weights, arguments.out, stored_config(cfg), encoder, mapper, arguments.tokenizer, arguments.num_heads)
    print(f"{arguments.out}: lm for transformers, clipcap.ckpt for eval.py and prefixvlm predict")


def _check_files(read: Path, out: Path) -> None:
    if not read.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(read))
    if out.exists():
        raise ValueError(f"{out} exists; set --out to a new folder")


def _convert_lm(arguments: argparse.Namespace) -> None:
    from prefixvlm.lm.packaged import SmolLM2

    SmolLM2.from_pretrained()
