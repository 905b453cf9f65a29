"""Published files: validated JSON, and samples whose images are read when they are written.

Everything that is wrong with a file raises ValueError with one sentence that names it.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from prefixvlm import strict_json
from prefixvlm.data.sample import IMAGE_EXTENSIONS
from prefixvlm.data.shards.tar_writer import Members, SampleOrError

MAX_NAME = 255  # bytes, of a file or a folder, in the file systems of Linux and macOS
T = TypeVar("T")
Samples = Iterable[SampleOrError]


@dataclass
class Record:
    """A sample with paths of images.

    problem: the reason why it is left out, "" if it is not. support: images of the support by the name of their member.
    """

    key: str
    image: Path
    content: dict[str, Any]
    problem: str = ""
    support: dict[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def images(self) -> dict[str, Path]:
        return {**self.support, self.image.suffix[1:].lower(): self.image}


class RecordSamples:
    """The samples of records, made one by one during iteration."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[SampleOrError]:
        for record in self.records:
            members: Members = {**record.images, "json": json.dumps(record.content).encode()}
            problem = record.problem or _unsupported_image(record.images)
            yield record.key, ValueError(problem) if problem else members


def samples_of(records: list[Record], description: str) -> RecordSamples:
    """Return the samples of records. description: what the folder of images must be.

    Raises ValueError if more than half of the images are missing, because the folder is then another one.
    """
    paths = [path for record in records for path in record.images.values()]
    existing = {path for path in set(paths) if path.is_file()}
    missing = [path for path in paths if path not in existing]
    if 2 * len(missing) > len(paths):
        share = f"{len(missing)} of {len(paths)} images are missing, as {missing[0]}"
        raise ValueError(f"{share}; the folder must be {description}")
    return RecordSamples(records)


def _unsupported_image(images: Mapping[str, Path]) -> str:
    for path in images.values():
        if path.suffix[1:].lower() not in IMAGE_EXTENSIONS:
            return f"{path.name} is no image that is read; convert it to one of .{', .'.join(IMAGE_EXTENSIONS)}"
    return ""


def option(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"


def required(path: Path | None, argument: str, descriptions: Mapping[str, str]) -> Path:
    """Return the path. descriptions: what each argument must be. Raises ValueError if the path is None."""
    if path is None:
        raise ValueError(f"{option(argument)} is not given; it must be {descriptions[argument]}")
    return path


def read_required(path: Path | None, argument: str, kind: type[T], descriptions: Mapping[str, str]) -> tuple[Path, T]:
    """Return the path and the content of a required file, see `required` and `read_json`."""
    path = required(path, argument, descriptions)
    return path, read_json(path, kind, descriptions[argument])


def read_json(path: Path, kind: type[T], description: str) -> T:
    """Return the content of a JSON file. kind: dict or list. description: what the file must be."""
    try:
        content = strict_json.read_json(path, Any, "JSON")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); it must be {description}") from error
    except ValueError as error:
        raise ValueError(f"{error}; it must be {description}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__} and not a {kind.__name__}; it must be {description}")
    return content


def field(record: object, name: str, kind: type[T], path: Path) -> T:
    """Return a field of a record. Raises ValueError if it is missing or of another type."""
    if not isinstance(record, dict) or name not in record:
        raise ValueError(f"{path}: {name!r} is missing in {record!r:.80}")
    if not isinstance(record[name], kind) or (kind is int and isinstance(record[name], bool)):
        raise ValueError(f"{path}: {name!r} is {record[name]!r:.80}, which is no {kind.__name__}, in {record!r:.160}")
    return record[name]


def id_field(record: object, name: str, path: Path) -> str:
    """Return a field that is a text or an integer, as text."""
    value = field(record, name, object, path)
    return str(value) if type(value) is int else field(record, name, str, path)


def optional_texts(record: Mapping[str, Any], names: tuple[str, ...], path: Path) -> dict[str, str]:
    """Return the text fields with these names that the record has."""
    return {name: field(record, name, str, path) for name in names if record.get(name) is not None}


def answer_texts(record: object, path: Path) -> list[str]:
    """Return the answers of all annotators, in the order of `answer_id` if they have one.

    A blank answer becomes a full stop: VQA accuracy counts it as one of the ten, and its normalisation deletes full
    stops.
    """
    answers = field(record, "answers", list, path)
    if all(isinstance(answer, dict) and "answer_id" in answer for answer in answers):
        answers = sorted(answers, key=lambda answer: field(answer, "answer_id", int, path))
    texts = [field(answer, "answer", str, path) for answer in answers]
    return [text if text.strip() else "." for text in texts]


def captioned(key: str, image: Path, captions: list[str], content: dict[str, Any], problem: str = "") -> list[Record]:
    """Return the record of an image with its captions, and one that is left out for each blank caption."""
    texts = [caption for caption in captions if caption.strip()]
    blank = [f"{key}, caption {number}" for number, caption in enumerate(captions) if not caption.strip()]
    records = [Record(name, image, {}, "the caption is blank") for name in blank]
    if captions and not texts:
        problem = problem or "all its captions are blank"
    return [*records, Record(key, image, {**content, "captions": texts}, problem)]


def image_path(folder: Path, subfolder: str, name: str) -> Path:
    """Return the path of an image in the folder, or else in the subfolder of the published archive.

    Raises ValueError as path_inside does.
    """
    return flat if (flat := path_inside(folder, name)).is_file() else path_inside(folder, f"{subfolder}/{name}")


def path_inside(folder: Path, name: str) -> Path:
    """Return the path of a file that a table or an annotation names.

    Raises ValueError if it is not in the folder, also by a link: the names are data that anyone may have written.
    """
    parts = PurePosixPath(name)
    if parts.is_absolute() or ".." in parts.parts or not parts.name or not all(map(_is_file_name, parts.parts)):
        raise ValueError(f"the image {name!r:.80} is not in {folder}; names must be of files, relative to that folder")
    path = folder / name
    if not path.resolve().is_relative_to(_resolved(folder)):
        raise ValueError(f"the image {path} is a link that leaves {folder}; copy it, or give the folder that it is in")
    return path


def _is_file_name(part: str) -> bool:
    """Return whether a file system takes a part of a path: any other raises ValueError or OSError, wherever it is."""
    encoded = part.encode(errors="replace")
    return len(encoded) <= MAX_NAME and "\0" not in part and encoded.decode() == part


@cache
def _resolved(folder: Path) -> Path:
    return folder.resolve()
