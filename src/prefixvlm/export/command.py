"""The subcommand `prefixvlm export`: a checkpoint in another format."""

import argparse
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prefixvlm.checkpoint.hub_folder import find_here
from prefixvlm.inference.options import add_checkpoint


@dataclass(frozen=True)
class Format:
    """A choice of --to. write: writes the folder, and returns a line that says what is in it.

    options: those of the arguments that only some formats take and that this one takes.
    """

    help: str
    write: Callable[[argparse.Namespace], str]
    options: tuple[str, ...] = ()


# The functions import what they need themselves, because torch takes seconds.
def _write_hub(arguments: argparse.Namespace) -> str:
    from prefixvlm.export.hub import export_hub

    return export_hub(arguments.ckpt, arguments.out, arguments.metrics, arguments.include_frozen, arguments.licence)


def _write_transformers(arguments: argparse.Namespace) -> str:
    from prefixvlm.export.llava.write import write_llava

    return write_llava(arguments.ckpt, arguments.out, arguments.dtype or "float32")


def _write_onnx(arguments: argparse.Namespace) -> str:
    if importlib.util.find_spec("onnxscript") is None:
        raise ValueError("--to onnx needs onnx and onnxscript; pip install prefixvlm[export]")
    from prefixvlm.export.programs import export_programs

    return export_programs(arguments.ckpt, arguments.out, onnx=True)


def _write_torch(arguments: argparse.Namespace) -> str:
    from prefixvlm.export.programs import export_programs

    return export_programs(arguments.ckpt, arguments.out, onnx=False)


FORMATS = {
    "hub": Format(
        "the trained tensors, the configuration and a model card, for prefixvlm.load and the Hugging Face hub",
        _write_hub,
        ("metrics", "include_frozen", "licence"),
    ),
    "transformers": Format(
        "a LlavaForConditionalGeneration with its processor, for transformers and the servers that read it",
        _write_transformers,
        ("dtype",),
    ),
    "onnx": Format("graphs for onnxruntime, the tokenizer, and the rest as JSON", _write_onnx),
    "torch": Format("the same graphs as programs of torch.export", _write_torch),
}
OPTIONS = sorted({option for each in FORMATS.values() for option in each.options})


def add_export(parser: argparse.ArgumentParser) -> None:
    choices = "; ".join(f"{name}: {each.help}" for name, each in FORMATS.items())
    add_checkpoint(parser)
    parser.add_argument("--to", required=True, choices=list(FORMATS), help=choices)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    parser.add_argument(
        "--metrics", type=Path, metavar="FILE",
        help="the metrics.json of an evaluation, for the model card; default: the one beside the checkpoint, if any",
    )  # fmt: skip
    parser.add_argument(
        "--include-frozen", action="store_true",
        help="copy the folders of your own that hold the frozen encoder or language model, too",
    )  # fmt: skip
    parser.add_argument("--licence", metavar="ID", help="of what was trained, for the model card: mit, apache-2.0")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights; default: float32")
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    chosen = FORMATS[arguments.to]
    for option in OPTIONS:
        if getattr(arguments, option) and option not in chosen.options:
            takers = " or ".join(name for name, each in FORMATS.items() if option in each.options)
            raise ValueError(f"--{option.replace('_', '-')} is an option of --to {takers}, not of --to {arguments.to}")
    find_here(arguments.ckpt, "--ckpt")
    if arguments.out.exists():
        raise ValueError(f"{arguments.out} exists; set --out to a new folder")
    print(f"{arguments.out}: {chosen.write(arguments)}")
