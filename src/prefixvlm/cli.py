"""The `prefixvlm` command: arguments go in, one of its subcommands runs."""

import argparse
import json
from pathlib import Path
from typing import Any

from prefixvlm.data.shards.command import add_shards
from prefixvlm.errors import one_sentence
from prefixvlm.metrics.command import add_score
from prefixvlm.serve.command import add_predict
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

    add_predict(commands.add_parser("predict", help="say of images what a checkpoint was trained to say of them"))

    merge = commands.add_parser("merge", help="put LoRA into the weights of the language model that it was trained on")
    merge.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run with tune")
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder: lm/ and merged.ckpt")
    merge.set_defaults(run=_merge)

    describe = commands.add_parser("describe", help="what train.py would train, and how, without reading any weights")
    describe.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as train.py takes them: experiment=frozen")
    describe.add_argument("--json", action="store_true", help="the same for programs")
    describe.set_defaults(run=_describe)

    clipcap = commands.add_parser("import-clipcap", help="make a checkpoint of the weights of ClipCap's own code")
    _add_import_clipcap(clipcap)
    return parser


def _add_features(names: Any) -> None:
    command = names.add_parser(
        "features", help="run a frozen encoder once over a folder of shards: its images or texts"
    )
    command.add_argument("--shards", type=Path, required=True, metavar="DIR", help="a folder of image shards")
    command.add_argument(
        "--encoder", nargs="+", required=True, metavar=("NAME", "KEY=VALUE"),
        help="a choice of conf/encoder, and what of it is changed, as encoder.features=patch",
    )  # fmt: skip
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the feature shards")
    texts = "features of the captions in the place of those of images, one sample each (CapDec)"
    command.add_argument("--texts", action="store_true", help=texts)
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (%(default)s)")
    command.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at once (%(default)s)")
    command.set_defaults(run=_features)


def _add_import_clipcap(command: Any) -> None:
    command.add_argument("weights", type=Path, metavar="FILE", help="ClipCap's weights: a state dict, with its GPT-2")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder: lm/ and clipcap.ckpt")
    command.add_argument(
        "--encoder", nargs="+", default=[None], metavar=("NAME", "KEY=VALUE"),
        help="a choice of conf/encoder, and what of it is changed; default: by the features' width",
    )  # fmt: skip
    command.add_argument(
        "--normalize", action="store_true", help="the features were divided by their norm, as for ClipCap's transformer"
    )
    command.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="a local folder or a hub id (%(default)s)")
    command.add_argument("--num-heads", type=int, metavar="N", help="of GPT-2; default: as many as are 64 wide")
    command.set_defaults(run=_import_clipcap)


def _features(arguments: argparse.Namespace) -> None:
    from prefixvlm.build import encoder_choice, make
    from prefixvlm.features.write import write_features

    node = encoder_choice(arguments.encoder[0], arguments.encoder[1:])
    encoder = make("encoder", node)
    options, texts = (arguments.batch_size, arguments.device), None
    if arguments.texts:
        from prefixvlm.features.encode_captions import texts_of

        texts = texts_of(encoder, node, *options)
    manifest = write_features(encoder, node, arguments.shards, arguments.out, *options, texts)
    for split in manifest.splits:
        print(f"{arguments.out}: {manifest.num_samples(split)} {split} samples, each {encoder.num_features} x "
              f"{encoder.feature_width} features")  # fmt: skip


def _merge(arguments: argparse.Namespace) -> None:
    from prefixvlm.build import build_merged
    from prefixvlm.convert.merge import merge

    merge(arguments.ckpt, arguments.out, build_merged)
    print(f"{arguments.out}: lm for transformers, merged.ckpt for eval.py and prefixvlm predict")


def _describe(arguments: argparse.Namespace) -> None:
    from prefixvlm.config import composed_run
    from prefixvlm.describe import describe, text_description

    found = describe(composed_run(arguments.overrides))
    print(json.dumps(found, indent=1) if arguments.json else text_description(found))


def _import_clipcap(arguments: argparse.Namespace) -> None:
    import torch

    from prefixvlm.build import make, plain
    from prefixvlm.config import composed_run
    from prefixvlm.convert.clipcap import write_clipcap
    from prefixvlm.convert.clipcap_weights import read_clipcap

    weights = read_clipcap(arguments.weights)
    encoder, *changes = arguments.encoder
    cfg = composed_run([*weights.overrides(encoder, arguments.normalize), *changes])
    with torch.device("meta"):  # nothing is downloaded
        shape = make("encoder", cfg.encoder)
    given = {"feature_width": weights.feature_width, "num_features": 1, "lm_width": weights.lm_width, "grid": None}
    mapper = make("mapper", cfg.mapper, **given)
    kept = {key: value for key, value in plain(cfg).items() if key not in ("run_dir", "callbacks", "logger")}
    write_clipcap(weights, arguments.out, kept, shape, mapper, arguments.tokenizer, arguments.num_heads)
    print(f"{arguments.out}: lm for transformers, clipcap.ckpt for eval.py and prefixvlm predict")


if __name__ == "__main__":
    main()
