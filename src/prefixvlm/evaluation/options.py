"""The options of eval.py by themselves, before a checkpoint is read."""

from collections.abc import Mapping
from typing import Any

from prefixvlm.data.shards.resolve import resolve_shards
from prefixvlm.data.sources import how_to_make


def data_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the data module that an evaluation sets."""
    benchmark = options["benchmark"] or {}
    values = {
        "shards": options["shards"] or benchmark.get("shards"),
        "test_split": options["split"] or benchmark.get("split"),
        "limit_test": options["limit"],
        "eval_batch_size": options["batch_size"],
        "blind": False,  # a model that was trained on black images is evaluated with real ones too
    }
    return {key: value for key, value in values.items() if value is not None}


def check_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError if few_shot is null or beside inspect, or if the shards of a benchmark are missing.

    For shards, a note of the error lists the files that are needed and the command that writes the shards.
    """
    if not options["few_shot"]:
        raise ValueError("few_shot is null; set few_shot.shots=0 for no demonstrations")
    if options["inspect"] and options["few_shot"]["shots"]:
        raise ValueError("inspect explains what is said without demonstrations; set few_shot.shots=0, or inspect=0")
    if not options["benchmark"]:
        return
    data = data_options(options)
    name = options["benchmark"]["source"].replace("_", "-")
    shots = options["few_shot"]["shots"]
    try:
        for split in (data["test_split"], *(["train"] if shots else [])):
            resolve_shards(data["shards"], split, "make the shards as follows")
    except ValueError as error:
        error.add_note(how_to_make(name, None if shots else data["test_split"], data["shards"]))
        raise
