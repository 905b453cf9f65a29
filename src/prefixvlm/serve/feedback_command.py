"""The subcommand `prefixvlm feedback`: what the collected corrections say about a model."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from prefixvlm.data.sources.feedback import last_corrections, read_corrections

MAX_LISTED = 10


def add_feedback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="the folder of `prefixvlm serve --feedback DIR`")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_feedback)


def summary(folder: Path) -> dict[str, Any]:
    """Return what was collected: counts, by task too, and the commonest corrections."""
    every, damaged = read_corrections(folder)
    by_image = last_corrections(every)
    counted = [each for corrections in by_image.values() for each in corrections.values()]
    changed = [each for each in counted if each.correction != each.prediction]
    tasks = {
        task: {
            "corrections": sum(each.task == task for each in counted),
            "changed": sum(each.task == task for each in changed),
        }
        for task in sorted({each.task for each in counted})
    }
    common = Counter((each.task, each.prediction, each.correction) for each in changed).most_common(MAX_LISTED)
    return {
        "images": len(by_image),
        "corrections": len(counted),
        "changed": len(changed),
        "replaced": len(every) - len(counted),
        "damaged": damaged,
        "first": every[0].time,
        "last": every[-1].time,
        "tasks": tasks,
        "commonest": [
            {"task": task, "prediction": said, "correction": right, "count": count}
            for (task, said, right), count in common
        ],
    }


def text_summary(found: dict[str, Any]) -> str:
    """Return the summary as lines for a terminal."""
    lines = [
        f"{found['corrections']} corrections of {found['images']} images, {found['first'][:10]} to {found['last'][:10]}"
    ]
    for task, counts in found["tasks"].items():
        confirmed = counts["corrections"] - counts["changed"]
        lines.append(f"  {task}: {counts['changed']} differ from the prediction, {confirmed} confirm it")
    if found["replaced"]:
        lines.append(f"{found['replaced']} earlier ones of the same image and question do not count.")
    if found["damaged"]:
        where, reason = next(iter(found["damaged"].items()))
        lines.append(f"{len(found['damaged'])} damaged lines do not count, as {where} ({reason}).")
    if found["commonest"]:
        lines.append("The commonest:")
        lines += [
            f"  {each['count']:5} x {each['prediction'] or '(nothing)'} -> {each['correction']}  ({each['task']})"
            for each in found["commonest"]
        ]
    return "\n".join(lines)


def _feedback(arguments: argparse.Namespace) -> None:
    found = summary(arguments.folder)
    print(json.dumps(found, indent=1) if arguments.json else text_summary(found))
