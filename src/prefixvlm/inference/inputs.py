"""What `prefixvlm predict` is asked: images of files, folders, patterns, standard input and JSONL, with their texts."""

import glob
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefixvlm.data.image import check_image_path
from prefixvlm.inference.request import Request
from prefixvlm.strict_json import parse_json

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp")
STDIN = "-"


@dataclass(frozen=True)
class Item:
    """An image to predict. id: of its results. choices: of which one is the answer, () to generate it."""

    id: str
    path: Path
    request: Request
    choices: tuple[str, ...] = ()


@dataclass
class Line:
    """An object of JSONL. image: relative to the folder of the file. question: in place of that of the command line."""

    image: str
    question: str | None = None
    choices: tuple[str, ...] = ()
    id: str | int | None = None


def read_items(inputs: Sequence[str], request: Request) -> Iterator[Item]:
    """Yield what the inputs name, in order; files of a folder and of a pattern in that of their names.

    request: of images that bring none. Raises ValueError for an input that names nothing, or a line that is not valid.
    """
    for text in inputs:
        path = Path(text)
        if text == STDIN:
            yield from _of_lines(sys.stdin, "standard input", Path(), request)
        elif path.is_dir():
            yield from (Item(str(each), each, request) for each in _images(path))
        elif glob.has_magic(text) and not path.exists():
            if not (found := sorted(glob.glob(text, recursive=True))):
                raise ValueError(f"no file fits the pattern {text}")
            yield from (Item(each, Path(each), request) for each in found if Path(each).is_file())
        elif path.suffix == ".jsonl":
            with path.open(encoding="utf-8-sig") as file:
                yield from _of_lines(file, text, path.parent, request)
        else:
            check_image_path(path)
            if not path.exists():
                raise ValueError(f"there is no image {text}")
            yield Item(text, path, request)


def _images(folder: Path) -> list[Path]:
    """Return the images of a folder and of the folders in it, without hidden ones. Raises ValueError for none."""
    files = (path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file())
    found = sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(folder).parts))
    if not found:
        raise ValueError(f"{folder} has no image; accepted are {', '.join(EXTENSIONS)}")
    return found


def _of_lines(lines: Iterator[str], name: str, folder: Path, request: Request) -> Iterator[Item]:
    for number, text in enumerate(lines, 1):
        if not (text := text.strip()):
            continue
        if not text.startswith("{"):
            yield Item(text, folder / text, request)
            continue
        try:
            line = parse_json(text, Line)
            own = request if line.question is None else Request((line.question,))
            _ = own.takes  # raises ValueError for a question without words
        except ValueError as error:
            raise ValueError(f"line {number} of {name} is not valid ({error})") from error
        yield Item(line.image if line.id is None else str(line.id), folder / line.image, own, line.choices)
