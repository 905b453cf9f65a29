"""The subcommand `prefixvlm predict`: captions, answers and boxes for image files."""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from prefixvlm.checkpoint.hub_folder import find_here
from prefixvlm.inference.inputs import EXTENSIONS, STDIN, Item, read_items
from prefixvlm.inference.options import add_checkpoint, add_device, add_dtype
from prefixvlm.inference.request import Request
from prefixvlm.inference.results import Results

MAX_NAMED = 5  # images that could not be read


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE",
        help="PNG, JPEG or WebP files, folders, patterns as 'photos/**/*.jpg', - for paths from standard input, or "
        "JSONL files of {image, question, choices, id}",
    )  # fmt: skip
    add_checkpoint(parser)
    parser.add_argument("--task", metavar="NAME", help="one of the checkpoint's tasks, if several fit the request")
    parser.add_argument(
        "--question", action="append", default=[], metavar="TEXT",
        help="for vqa or dialogue; may be repeated, and a dialogue answers them one after the other",
    )  # fmt: skip
    parser.add_argument(
        "--phrase", action="append", default=[], metavar="TEXT", help="to find, for grounding; may be repeated"
    )
    parser.add_argument("--text", metavar="TEXT", help="words to tag, for tagging; the tag O is not printed")
    parser.add_argument(
        "--decoding", nargs="+", default=[], metavar="KEY=VALUE",
        help="options of the task's decoding, as method=beam num_beams=5; after the images",
    )  # fmt: skip
    parser.add_argument(
        "--few-shot", type=Path, metavar="DIR",
        help="a folder of images, each with its caption or answer in a .txt of the same name, shown before the prompt",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, metavar="FILE", help="write to a new .jsonl or .csv, as they come")
    parser.add_argument("--resume", action="store_true", help="go on with the file of --results")
    parser.add_argument(
        "--out", type=Path, metavar="PATH",
        help="a picture, for one image, or a folder of pictures: save the images with the predicted boxes",
    )  # fmt: skip
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images in a batch (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that decode (%(default)s)")
    add_device(parser)
    add_dtype(parser)
    parser.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> None:
    request = Request(tuple(arguments.question), tuple(arguments.phrase), arguments.text)
    _ = request.takes  # raises ValueError for a bad request before the checkpoint is loaded
    items: Iterable[Item] = read_items(arguments.images, request)
    # What comes from a pipe is not waited for.
    items = items if STDIN in arguments.images else list(items)
    _check(arguments, items)
    options: dict[str, Any] = {"decoding": _decoding(arguments.decoding), "shown": _shown(arguments.few_shot)}
    results = Results(arguments.results, arguments.resume)
    # Imported here, because torch takes seconds, and most subcommands do not need it.
    from prefixvlm.inference.batches import Options
    from prefixvlm.inference.captioner import Captioner

    model = Captioner(arguments.ckpt, arguments.device, arguments.dtype)
    if not arguments.images:
        for answer in model.answers([], request, arguments.task):  # a task on text alone
            print(model.task(request, arguments.task).format(answer.prediction, answer.image.size, answer.asked))
        return
    given = Options(arguments.batch_size, arguments.workers, arguments.task, **options)
    bad = _predict_items(model, items, given, results, arguments.out)
    end_with(bad, "read", isinstance(items, list) and len(items) == 1)


def end_with(bad: Sequence[str], what: str, alone: bool) -> None:
    """Exit with code 1 if there are bad images, and name them. what: could not be done with them.

    alone: there was one image in all; then its error is raised.
    """
    if bad and alone:
        raise ValueError(bad[0])
    if bad:
        print(f"error: {len(bad)} images could not be {what}:", *bad[:MAX_NAMED], sep="\n  ", file=sys.stderr)
        sys.exit(1)


def _predict_items(model: Any, items: Iterable[Item], options: Any, results: Results, out: Path | None) -> list[str]:
    """Write the results of all items that are not there yet. Returns what is wrong with images that are bad."""
    from prefixvlm.inference.batches import predict_all
    from prefixvlm.inference.draw import draw_boxes

    bad: list[str] = []
    pictures = _pictures(out, items) if out and isinstance(items, list) else {}
    total = len(items) if isinstance(items, list) else None
    todo = (item for item in items if not {(item.id, text) for text in item.request.texts} <= results.done)
    # Where the results are printed, a bar would stand between them.
    with closing(results), tqdm(total=total, unit=" images", disable=None if results.path else True) as bar:
        for item, answers in predict_all(model, todo, options):
            bar.update()
            if isinstance(answers, Exception):
                bad.append(str(answers))
                continue
            task = model.task(item.request, options.task)
            if item.path in pictures:
                draw_boxes(task, answers, pictures[item.path])
            for answer in answers:
                _write(results, item, answer, task)
    return bad


def _pictures(out: Path, items: list[Item]) -> dict[Path, Path]:
    """Return the picture of each image: in a folder those of several, placed as the images are below theirs."""
    if out.suffix.lower() in EXTENSIONS:
        return {items[0].path: out}
    paths = [item.path.absolute() for item in items]
    above = os.path.commonpath([path.parent for path in paths])
    return {item.path: out / path.relative_to(above) for item, path in zip(items, paths, strict=True)}


def _write(results: Results, item: Item, answer: Any, task: Any) -> None:
    shown = task.format(answer.prediction, answer.image.size, answer.asked)
    line = "\t".join([answer.name, *([answer.asked] if len(item.request.texts) > 1 else []), shown])
    record = {"id": item.id, "image": answer.name, "asked": answer.asked, "prediction": answer.prediction.prediction}
    shares = task.probabilities(answer.prediction)
    results.write(line, record | ({"probabilities": shares} if shares else {}))


def _check(arguments: argparse.Namespace, items: Iterable[Item]) -> None:
    if arguments.batch_size < 1 or arguments.workers < 1:
        raise ValueError(f"--batch-size is {arguments.batch_size} and --workers {arguments.workers}; set 1 or more")
    if arguments.resume and not arguments.results:
        raise ValueError("--resume goes on with a file; give it as --results")
    if arguments.out:
        _check_out(arguments.out, items)
    find_here(arguments.ckpt, "--ckpt")


def _check_out(out: Path, items: Iterable[Item]) -> None:
    if not isinstance(items, list) or not items:
        raise ValueError("--out takes images that are named on the command line; name them in place of standard input")
    is_picture = out.suffix.lower() in EXTENSIONS
    if is_picture and len(items) != 1:
        raise ValueError(f"--out is {out}, of one image, and there are {len(items)}; give a folder")
    if (out.suffix and not is_picture) or not out.parent.is_dir() or (out.is_file() and not is_picture):
        raise ValueError(
            f"--out is {out}; it must be a folder or end in {', '.join(EXTENSIONS)}, and be in a folder that exists"
        )


def _decoding(words: list[str]) -> dict[str, Any]:
    pairs = [word.partition("=") for word in words]
    if wrong := [word for word, (_, equals, _) in zip(words, pairs, strict=True) if not equals]:
        raise ValueError(f"--decoding has {wrong[0]!r}; write KEY=VALUE")
    return {key: yaml.safe_load(value) for key, _, value in pairs}


def _shown(folder: Path | None) -> list[tuple[Path, str]]:
    """Return the images of --few-shot with their texts."""
    if folder is None:
        return []
    found = [item.path for item in read_items([str(folder)], Request())]
    if missing := [path for path in found if not path.with_suffix(".txt").is_file()]:
        raise ValueError(f"--few-shot has {missing[0]}, but no {missing[0].with_suffix('.txt').name} with its text")
    return [(path, path.with_suffix(".txt").read_text(encoding="utf-8").strip()) for path in found]
