"""The subcommand `prefixvlm inspect`: a page about why a model said what it said."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from prefixvlm.atomic import write_text
from prefixvlm.checkpoint.hub_folder import find_here
from prefixvlm.inference.command import end_with
from prefixvlm.inference.inputs import STDIN, Item, read_items
from prefixvlm.inference.options import add_checkpoint, add_device
from prefixvlm.inference.request import Request

if TYPE_CHECKING:  # importing them imports torch, before the arguments are checked
    from prefixvlm.inspect.explanation import Explanation
    from prefixvlm.inspect.faithfulness import Line


def add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="PNG, JPEG or WebP files, folders, patterns, or JSONL files of {image, question, id}, as for predict; "
        "with several, the page also says how faithful the maps are over all of them",
    )  # fmt: skip
    add_checkpoint(parser)
    parser.add_argument("--question", metavar="TEXT", help="explain the answer to it; default: the caption")
    parser.add_argument("--text", metavar="TEXT", help="explain this text in place of what the model says")
    parser.add_argument("--task", metavar="NAME", help="one of the checkpoint's tasks, if several fit the request")
    parser.add_argument(
        "--other", metavar="IMAGE", help="whose prefix takes the place of the image's; default: the next of the images"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("inspect.html"), metavar="PAGE", help="the page to write (%(default)s)"
    )
    add_device(parser)
    parser.add_argument(
        "--dtype", default="float32",
        help="of the language model: float32, whose gradients are the most exact, bfloat16, float16 (%(default)s)",
    )  # fmt: skip
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> None:
    request = Request(() if arguments.question is None else (arguments.question,))
    _ = request.takes  # raises ValueError for a question without words before the checkpoint is loaded
    _check(arguments)
    items = list(read_items(arguments.images, request))
    other = next(read_items([arguments.other], Request())) if arguments.other else None
    # Imported here, because torch takes seconds, and most subcommands do not need it.
    from prefixvlm.inference.captioner import Captioner
    from prefixvlm.inspect.faithfulness import table
    from prefixvlm.inspect.page import render
    from prefixvlm.inspect.pages import Asked, explain_all

    model = Captioner(arguments.ckpt, arguments.device, arguments.dtype)
    asked = [Asked(item.id, item.path, _question(item), arguments.text) for item in items]
    explained = explain_all(model, asked, arguments.task, (other.id, other.path) if other else None)
    explanations: list[Explanation] = []
    bad: list[str] = []
    for found in tqdm(explained, total=len(items), unit=" images", disable=None):
        if isinstance(found, Exception):
            bad.append(str(found))
        else:
            explanations.append(found)
    if explanations:
        write_text(arguments.out, render(str(arguments.ckpt), explanations), errors="replace")
        for line in table([each.curves for each in explanations]):
            print(_text(line))
        print(f"Page: {arguments.out}")
    end_with(bad, "explained", len(items) == 1)


def _question(item: Item) -> str | None:
    return item.request.texts[0] or None


def _text(line: "Line") -> str:
    """Return a line of the table of faithfulness."""
    columns = (("deletion", line.deletion), ("gain", line.deletion_gain), ("insertion", line.insertion),
               ("gain", line.insertion_gain))  # fmt: skip
    texts = [f"{name} {_spread(value)}" for name, value in columns if value is not None]
    return f"{line.method:22}{'  '.join(texts)}"


def _spread(value: Sequence[float]) -> str:
    return f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


def _check(arguments: argparse.Namespace) -> None:
    if STDIN in (*arguments.images, arguments.other):
        raise ValueError("inspect does not read standard input; name the images")
    if arguments.text is not None and not arguments.text.strip():
        raise ValueError("--text has no words; give the text to explain")
    if arguments.out.suffix.lower() not in (".html", ".htm") or not arguments.out.parent.is_dir():
        raise ValueError(f"--out is {arguments.out}; it must end in .html and be in a folder that exists")
    find_here(arguments.ckpt, "--ckpt")
