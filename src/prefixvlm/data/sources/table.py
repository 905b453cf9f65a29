"""The user's own table, a CSV, TSV or JSONL file, and images: one sample for each image.

Columns, all optional except image:
  image               the path of the image in the folder of images
  caption, captions   a text; in JSONL, captions is a list of them
  question            a text, with its
  answer, answers     a text; in JSONL, answers is a list of them. In CSV and TSV both may hold several, as one|two;
                      --separator changes the |, and --separator '' takes them as one text
  id                  of the question; else it is made from the image's name
  label               the class of the image
  split               train (also where it is empty), val or test
Several rows of one image become one sample. The key is the path of the image without its extension. If others of the
split have texts or answers, an image without any text and a question without an answer are left out, with the reason
in the manifest.
"""

import csv
import difflib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from prefixvlm.data.sources import _own
from prefixvlm.data.sources._files import Record, Samples, path_inside, samples_of
from prefixvlm.strict_json import parse_json

SOURCE = "A table of one's own"
LICENCE = "one's own"
TERMS = ""
SPLITS = _own.SPLITS
ARGUMENTS = {
    "table": "FILE: a CSV, TSV or JSONL file with the columns that are described above",
    "images": "DIR: the folder of the images",
    "separator": "TEXT: what stands between several captions or answers in a CSV or TSV file; without it |",
    "val_share": _own.VAL_SHARE,
    "test_share": _own.TEST_SHARE,
}
TEXTS = ("image", "question", "id", "label", "split")
LISTS = {"caption": "captions", "captions": "captions", "answer": "answers", "answers": "answers"}
Row = dict[str, Any]


def available_splits(
    table: Path, images: Path, separator: str = "|", val_share: float | None = None, test_share: float | None = None
) -> list[str]:
    """Return the splits that the data has. Raises ValueError for a column that is misspelt."""
    columns: dict[str, None] = {}
    divided: list[str] = []
    for where, row in _rows(table, separator):
        columns |= dict.fromkeys(row if isinstance(row, dict) else ())
        divided += [where for name in LISTS if table.suffix != ".jsonl" and len(row.get(name) or ()) > 1]
    check_columns(table, [*columns])
    if divided:
        print(
            f"{len(divided)} cells were divided at {separator!r}, as of {divided[0]}; --separator '' keeps them whole."
        )
    return list(_splits(table, separator, val_share, test_share))


def check_columns(table: Path, columns: list[str]) -> None:
    """Say which columns are not used. Raises ValueError if one seems to be misspelt, or if none has texts."""
    known = [*TEXTS, *LISTS]
    unused = [name for name in columns if name not in known]
    roles = {LISTS.get(name, name) for name in columns}
    missing = [name for name in known if LISTS.get(name, name) not in roles]
    for name in unused:
        if close := difflib.get_close_matches(str(name).strip().lower(), missing, n=1, cutoff=0.75):
            raise ValueError(
                f"{table} has a column {name!r}, which is not known; rename it to {close[0]}, or remove it"
            )
    named = ", ".join(map(repr, unused))
    if unused and roles & {"image"} and not roles & {"captions", "question", "label"}:
        raise ValueError(
            f"{table} has no texts: of its columns, {named} are not known; rename one to caption, question or label, "
            "or remove them"
        )
    if unused:
        print(f"{table}: {named} are not used; --help says which columns are.")


def samples(
    split: str,
    table: Path,
    images: Path,
    separator: str = "|",
    val_share: float | None = None,
    test_share: float | None = None,
) -> Samples:
    splits = _splits(table, separator, val_share, test_share)
    keys = _own.unique_keys(splits)[split]
    contents = {name: _content(keys[name], rows) for name, rows in splits[split].items()}
    has_texts = any(contents.values())
    has_answers = any(question["answers"] for each in contents.values() for question in each.get("questions", []))
    records = []
    for name, content in contents.items():
        questions = content.pop("questions", [])
        usable = [question for question in questions if question["answers"] or not has_answers]
        unanswered = [f"{keys[name]}, question {question['id']}" for question in questions if question not in usable]
        # A record that is left out, so that the manifest lists the question.
        path = path_inside(images, name)
        records += [Record(key, path, {}, "it has no answer") for key in unanswered]
        blank = sum(row.get("blank", 0) for row in splits[split][name])
        records += [Record(f"{keys[name]}, caption {n}", path, {}, "the caption is blank") for n in range(blank)]
        content |= {"questions": usable} if usable else {}
        problem = "" if content or not has_texts else "it has no caption, no answered question and no label"
        records.append(Record(keys[name], path, content, problem))
    return samples_of(records, ARGUMENTS["images"])


def _splits(
    table: Path, separator: str, val_share: float | None, test_share: float | None
) -> dict[str, dict[str, list[Row]]]:
    """Return by split the rows of each image."""
    splits: dict[str, dict[str, list[Row]]] = {split: {} for split in SPLITS}
    split_of: dict[str, str] = {}
    for where, each in _rows(table, separator):
        row = _checked(each, where)
        image, split = row["image"], row.get("split", "train")
        if split not in SPLITS:
            raise ValueError(f"{where}: split is {split!r}; it must be one of {', '.join(SPLITS)}")
        if split_of.setdefault(image, split) != split:
            raise ValueError(
                f"{where}: the image {image} is in {split} and in {split_of[image]}; it must be in one split"
            )
        labels = {row["label"] for row in [*splits[split].get(image, []), row] if "label" in row}
        if len(labels) > 1:
            raise ValueError(f"{where}: the image {image} has the labels {', '.join(sorted(labels))}; it must have one")
        splits[split].setdefault(image, []).append(row)
    if not split_of:
        raise ValueError(f"{table} has no rows; it must be {ARGUMENTS['table']}")
    return _own.split_by_name(splits, val_share, test_share)


def _rows(table: Path, separator: str) -> Iterator[tuple[str, Row]]:
    """Yield each row with its place, for error messages."""
    if table.suffix not in (".csv", ".tsv", ".jsonl"):
        raise ValueError(f"{table} is no .csv, .tsv or .jsonl file; it must be {ARGUMENTS['table']}")
    with table.open(encoding="utf-8-sig", newline="") as file:
        try:
            if table.suffix == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{table}, line {number}", _parse_line(line, number)
                return
            for number, row in enumerate(csv.DictReader(file, delimiter="\t" if table.suffix == ".tsv" else ","), 1):
                if None in row or None in row.values():
                    raise ValueError(f"row {number} has more or fewer columns than the first line")
                for name in LISTS:
                    if name in row:
                        row[name] = row[name].split(separator) if separator else [row[name]]
                yield f"{table}, row {number}", row
        except UnicodeDecodeError as error:
            raise ValueError(f"{table} is not UTF-8 ({error.reason}); save it as UTF-8") from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise ValueError(f"{table} cannot be read ({error}); it must be {ARGUMENTS['table']}") from error


def _parse_line(line: str, number: int) -> Any:
    try:
        return parse_json(line, Any)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error


def _checked(row: object, where: str) -> Row:
    """Return the known columns that are not empty, lists as lists."""
    if not isinstance(row, dict):
        raise ValueError(f"{where}: {row!r:.80} is no object")
    columns: Row = {}
    for name, value in row.items():
        if name in LISTS:
            texts = value if isinstance(value, list) else [value]
            if not all(isinstance(text, str) or text is None for text in texts):
                raise ValueError(f"{where}: {name} is {value!r:.80}; it must be a text or a list of texts")
            kept = [text.strip() for text in texts if text and text.strip()]
            columns.setdefault(LISTS[name], []).extend(kept)
            if LISTS[name] == "captions" and len(texts) > 1:
                columns["blank"] = columns.get("blank", 0) + len(texts) - len(kept)
        elif name in TEXTS and value not in (None, ""):
            columns[name] = str(value).strip()
    if not columns.get("image"):
        raise ValueError(f"{where}: it has no image; the columns are {', '.join(row)}")
    if not PurePosixPath(columns["image"]).name:
        raise ValueError(f"{where}: the image is {columns['image']!r}, which is no name of a file")
    if columns.get("answers") and "question" not in columns:
        raise ValueError(f"{where}: it has an answer and no question")
    return columns


def _content(key: str, rows: list[Row]) -> dict[str, Any]:
    questions = [
        {"id": row.get("id", f"{key}-{number}"), "question": row["question"], "answers": row.get("answers", [])}
        for number, row in enumerate(row for row in rows if "question" in row)
    ]
    captions = list(dict.fromkeys(caption for row in rows for caption in row.get("captions", [])))
    labels = next(({"label": row["label"]} for row in rows if "label" in row), {})
    content = {"captions": captions, "questions": questions, "labels": labels}
    return {name: value for name, value in content.items() if value}
