"""Published files: their paths go in, checked JSON and samples, their images still paths, come out.

Whatever is wrong with a file is a ValueError of one sentence that names it.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefixvlm.data.sample import IMAGE_EXTENSIONS
from prefixvlm.data.shards.tar_writer import Members, SampleOrError

T = TypeVar("T")
Samples = Iterable[SampleOrError]


@dataclass
class Record:
    """A sample before its images are read. wrong: why it cannot be one. support: by the name of their member."""

    key: str
    image: Path
    content: dict[str, Any]
    wrong: str = ""
    support: dict[str, Path] = dataclasses.field(default_factory=dict)

    @property
    def images(self) -> dict[str, Path]:
        return {**self.support, self.image.suffix[1:].lower(): self.image}


def option(argument: str) -> str:
    return f"--{argument.replace('_', '-')}"


def given(path: Path | None, argument: str, wanted: Mapping[str, str]) -> Path:
    """The path; wanted: by argument, what it must be. Raises ValueError if there is none."""
    if path is None:
        raise ValueError(f"{option(argument)} is not given; it wants {wanted[argument]}")
    return path


def read_given(path: Path | None, argument: str, kind: type[T], wanted: Mapping[str, str]) -> tuple[Path, T]:
    """The path, as of `given`, and what the file holds."""
    path = given(path, argument, wanted)
    return path, read_json(path, kind, wanted[argument])


def read_json(path: Path, kind: type[T], wanted: str) -> T:
    """What the file holds, an object (dict) or a list."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); it must be {wanted}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} holds a {type(content).__name__} and not a {kind.__name__}; it must be {wanted}")
    return content


def field(record: object, name: str, kind: type[T], path: Path) -> T:
    """The value of this name, which must be there and of this type."""
    if not isinstance(record, dict) or name not in record:
        raise ValueError(f"{path}: {name!r} is missing in {record!r:.80}")
    if not isinstance(record[name], kind) or (kind is int and isinstance(record[name], bool)):
        raise ValueError(f"{path}: {name!r} is {record[name]!r:.80}, which is no {kind.__name__}")
    return record[name]


def identity(record: object, name: str, path: Path) -> str:
    """The value of this name, a text or a whole number, as text."""
    value = field(record, name, object, path)
    return str(value) if type(value) is int else field(record, name, str, path)


def texts(record: Mapping[str, Any], names: tuple[str, ...], path: Path) -> dict[str, str]:
    """The values of those of these names that are there."""
    return {name: field(record, name, str, path) for name in names if record.get(name) is not None}


def answers(record: object, path: Path) -> list[str]:
    """The answers of all annotators, in the order of their `answer_id` where there is one.

    A blank one becomes a full stop: it still counts as one of the ten, and scoring deletes full stops.
    """
    found = field(record, "answers", list, path)
    if all(isinstance(answer, dict) and "answer_id" in answer for answer in found):
        found = sorted(found, key=lambda answer: field(answer, "answer_id", int, path))
    given = [field(answer, "answer", str, path) for answer in found]
    return [answer if answer.strip() else "." for answer in given]


def image_file(folder: Path, subfolder: str, name: str) -> Path:
    """In the subfolder, as the archives are packed, or else in the folder itself."""
    return flat if (flat := folder / name).is_file() else folder / subfolder / name


class Planned:
    """The samples of some records, made one by one as they are wanted; there are as many as records."""

    def __init__(self, records: list[Record]) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[SampleOrError]:
        for record in self.records:
            members: Members = {**record.images, "json": json.dumps(record.content).encode()}
            wrong = record.wrong or _unread(record.images)
            yield record.key, ValueError(wrong) if wrong else members


def _unread(images: Mapping[str, Path]) -> str:
    """Why one of the images cannot be read, by its name alone."""
    for path in images.values():
        if path.suffix[1:].lower() not in IMAGE_EXTENSIONS:
            return f"{path.name} is no image that is read; convert it to one of .{', .'.join(IMAGE_EXTENSIONS)}"
    return ""


def with_images(records: list[Record], wanted: str) -> Planned:
    """The samples of records; wanted: what the folder of images must be.

    Raises ValueError at once if more than half of the images are missing.
    """
    paths = [path for record in records for path in record.images.values()]
    there = {path for path in set(paths) if path.is_file()}
    missing = [path for path in paths if path not in there]
    if 2 * len(missing) > len(paths):
        share = f"{len(missing)} of {len(paths)} images are missing, as {missing[0]}"
        raise ValueError(f"{share}; the folder must be {wanted}")
    return Planned(records)
