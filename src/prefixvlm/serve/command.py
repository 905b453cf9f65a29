"""The subcommand `prefixvlm predict`: captions, answers and boxes for image files."""

import argparse
from pathlib import Path

from prefixvlm.data.image import check_image_path

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")


def add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, nargs="*", metavar="IMAGE", help="PNG, JPEG or WebP")
    parser.add_argument("--ckpt", type=Path, required=True, metavar="PATH", help="a checkpoint of a run")
    parser.add_argument("--task", metavar="NAME", help="one of the checkpoint's tasks, if several fit the request")
    parser.add_argument(
        "--question", action="append", default=[], metavar="TEXT",
        help="for vqa or dialogue; may be repeated, and a dialogue answers them one after the other",
    )  # fmt: skip
    parser.add_argument(
        "--phrase", action="append", default=[], metavar="TEXT", help="to find, for grounding; may be repeated"
    )
    parser.add_argument("--text", metavar="TEXT", help="words to tag, for tagging; the tag O is not printed")
    parser.add_argument("--out", type=Path, metavar="PICTURE", help="save the image with the predicted boxes")
    parser.set_defaults(run=_predict)


def _predict(arguments: argparse.Namespace) -> None:
    for image in arguments.images:
        check_image_path(image)
    # Imported here, because torch takes seconds, and most subcommands do not need it.
    from prefixvlm.serve.draw import draw_boxes
    from prefixvlm.serve.predictor import Predictor
    from prefixvlm.serve.request import Request

    request = Request(tuple(arguments.question), tuple(arguments.phrase), arguments.text)
    _ = request.takes  # raises ValueError for a bad request before the checkpoint is loaded
    if arguments.out and len(arguments.images) != 1:
        raise ValueError(f"--out is of one image; there are {len(arguments.images)}")
    if arguments.out and (arguments.out.suffix.lower() not in EXTENSIONS or not arguments.out.parent.is_dir()):
        raise ValueError(
            f"--out is {arguments.out}; it must end in {', '.join(EXTENSIONS)} and be in a folder that exists"
        )
    predictor = Predictor(arguments.ckpt)
    task = predictor.task(request, arguments.task)
    answers = predictor.answers(arguments.images, request, arguments.task)
    if arguments.out:
        draw_boxes(task, answers, arguments.out)
    several = len(request.texts) > 1
    for answer in answers:
        fields = [*([answer.name] if answer.name else []), *([answer.asked] if several else [])]
        print("\t".join([*fields, task.format(answer.prediction, answer.image.size, answer.asked)]))
