"""Submission files for the test servers of benchmarks."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefixvlm.atomic import write_text


def write_submission(path: str | Path, result: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> None:
    """Write the predictions as the JSON list that the test server of the task accepts.

    Entries are {image_id, caption} for COCO, {question_id, answer} for VQA, {questionId, prediction} for GQA and
    {image, answer} for VizWiz. Raises ValueError if there are predictions of several tasks.
    """
    check_one_task(result["tasks"])
    ((name, report),) = result["tasks"].items()
    entries = [_entry(name, report["variant"], line) for line in lines]
    write_text(path, json.dumps(entries, ensure_ascii=False) + "\n", errors="replace")


def check_one_task(tasks: Collection[str]) -> None:
    """Raise ValueError unless there is a single task."""
    if len(tasks) != 1:
        raise ValueError(f"a submission is of one task, not of {', '.join(tasks) or 'none'}; set task or benchmark")


def _entry(task: str, variant: str, line: Mapping[str, Any]) -> dict[str, Any]:
    if task == "captioning":
        return {"image_id": _number(line["key"]), "caption": line["prediction"]}
    if variant.startswith("gqa"):
        return {"questionId": line["id"], "prediction": line["prediction"]}
    if variant.startswith("vizwiz"):
        return {"image": f"{line['key']}.jpg", "answer": line["prediction"]}
    return {"question_id": _number(line["id"]), "answer": line["prediction"]}


def _number(text: str) -> int | str:
    """Return an id as in the files of COCO and VQA, where it is a number."""
    return int(text) if text.isdecimal() else text
