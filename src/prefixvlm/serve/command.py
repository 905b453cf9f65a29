"""`prefixvlm predict`: image files and what is asked about them go in, a line for each comes out."""

import argparse
from pathlib import Path

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="PNG, JPEG or WebP")
    parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run")
    parser.add_argument(
        "--task", metavar="NAME", help="which of the checkpoint's tasks, where several take what is given"
    )
    parser.add_argument(
        "--question", action="append", default=[], metavar="TEXT",
        help="to answer, by vqa or dialogue; several in a dialogue follow one another",
    )  # fmt: skip
    parser.add_argument(
        "--phrase", action="append", default=[], metavar="TEXT", help="to find, by grounding; several may be"
    )
    parser.add_argument("--text", metavar="TEXT", help="words to tag, by tagging; a word with O is printed alone")
    parser.add_argument("--out", type=Path, metavar="PICTURE", help="the image with the boxes that were found in it")
    parser.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> None:
    from prefixvlm.serve.asked import Asked
    from prefixvlm.serve.predictor import Predictor
    from prefixvlm.serve.told import draw, told

    asked = Asked(tuple(arguments.question), tuple(arguments.phrase), arguments.text)
    _ = asked.kind  # an error before anything is loaded
    if arguments.out and len(arguments.images) != 1:
        raise ValueError(f"--out is of one image; there are {len(arguments.images)}")
    if arguments.out and (arguments.out.suffix.lower() not in PICTURES or not arguments.out.parent.is_dir()):
        raise ValueError(
            f"--out is {arguments.out}; it must end in {', '.join(PICTURES)} and be in a folder that is there"
        )
    predictor = Predictor(arguments.ckpt)
    task = predictor.task(asked, arguments.task)
    answers = predictor.answers(arguments.images, asked, arguments.task)
    if arguments.out:
        draw(task, answers, arguments.out)
    several = len(asked.texts) > 1
    for answer in answers:
        fields = [*([str(answer.path)] if answer.path else []), *([answer.asked] if several else [])]
        print("\t".join([*fields, told(task, answer)]))
