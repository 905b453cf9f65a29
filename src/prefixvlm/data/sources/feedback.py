"""Corrections that `prefixvlm serve --feedback DIR` has collected: one sample for each image.

A correction of an answer becomes a question with that answer, for task=vqa; a correction of a caption becomes a
caption, for task=captioning. Of several corrections of one image and question the last one counts. All corrections of
an image are in one split, drawn by the hash of its bytes: all are train, and --val-share X and --test-share Y make some
of them val and test. A damaged line of the file is left out, with the reason in the manifest.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixvlm.data.schema import parse_texts
from prefixvlm.data.sources import _own
from prefixvlm.data.sources._files import Record, Samples, path_inside, samples_of
from prefixvlm.strict_json import parse_json, read_limited

SOURCE = "Corrections collected by prefixvlm serve"
LICENCE = "one's own"
TERMS = ""
SPLITS = _own.SPLITS
ARGUMENTS = {
    "source": "DIR: the folder of the corrections, with corrections.jsonl and images/",
    "val_share": _own.VAL_SHARE,
    "test_share": _own.TEST_SHARE,
}
CORRECTIONS, IMAGES = "corrections.jsonl", "images"
MAX_BYTES = 2**30  # of corrections.jsonl


@dataclass(frozen=True)
class Correction:
    """A line of corrections.jsonl.

    image: its path in the folder, which has the hash of its bytes. question: "" for a caption. time: ISO 8601, UTC.
    correction: what is right; it equals the prediction if that was confirmed.
    """

    id: str
    image: str
    question: str
    prediction: str
    correction: str
    time: str
    task: str


def read_corrections(folder: Path) -> tuple[list[Correction], dict[str, str]]:
    """Return the corrections in order, and what is wrong with damaged lines, by "line N".

    Raises ValueError if the folder has no corrections.
    """
    path = folder / CORRECTIONS
    if not path.is_file():
        raise ValueError(f"there is no {path}; it must be {ARGUMENTS['source']}")
    corrections, damaged = [], {}
    for number, line in enumerate(read_limited(path, MAX_BYTES).split(b"\n"), 1):
        try:
            if line.strip():
                correction = parse_json(line, Correction)
                parse_texts([correction.correction], "correction")
                corrections.append(correction)
        except ValueError as error:
            damaged[f"line {number}"] = str(error)
    if not corrections:
        raise ValueError(f"{path} has no corrections, and {len(damaged)} damaged lines")
    return corrections, damaged


def last_corrections(corrections: list[Correction]) -> dict[str, dict[str, Correction]]:
    """Return by image and question the last correction, in the order of the first ones."""
    by_image: dict[str, dict[str, Correction]] = {}
    for each in corrections:
        by_image.setdefault(each.image, {})[each.question] = each
    return by_image


def version(source: Path, **_: Any) -> str:
    """Return what the manifest names, so that shards of more corrections are other shards."""
    corrections, _damaged = read_corrections(source)
    return f"{len(corrections)} corrections, the last {corrections[-1].id}"


def available_splits(source: Path, val_share: float | None = None, test_share: float | None = None) -> list[str]:
    """Return the splits that the data has."""
    return list(_splits(source, val_share, test_share))


def samples(split: str, source: Path, val_share: float | None = None, test_share: float | None = None) -> Samples:
    splits = _splits(source, val_share, test_share)
    keys = _own.unique_keys(splits)[split]
    records = [
        Record(keys[image], path_inside(source, image), _content(keys[image], corrections))
        for image, corrections in splits[split].items()
    ]
    damaged = read_corrections(source)[1] if split == "train" else {}
    problems = [Record(line, records[0].image, {}, reason) for line, reason in damaged.items()]
    return samples_of([*records, *problems], ARGUMENTS["source"])


def _splits(
    source: Path, val_share: float | None, test_share: float | None
) -> dict[str, dict[str, dict[str, Correction]]]:
    return _own.split_by_name({"train": last_corrections(read_corrections(source)[0])}, val_share, test_share)


def _content(key: str, corrections: dict[str, Correction]) -> dict[str, Any]:
    questions = [
        {"id": f"{key}-{number}", "question": question, "answers": [each.correction]}
        for number, (question, each) in enumerate(corrections.items())
        if question
    ]
    captions = [corrections[""].correction] if "" in corrections else []
    return {name: texts for name, texts in (("captions", captions), ("questions", questions)) if texts}
