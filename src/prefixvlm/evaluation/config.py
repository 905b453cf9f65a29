"""Configuration of an evaluation: that of the checkpoint, with other tasks and data."""

from collections.abc import Mapping
from typing import Any

from prefixvlm.data.shards.manifest import resolve_shards
from prefixvlm.data.sources import how_to_make
from prefixvlm.encoder.cached import CachedEncoder, local_shards, read_identity


def evaluation_config(options: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration to evaluate.

    options: the configuration of eval.py. trained: the configuration of the checkpoint. Options of a benchmark's task
    that are null are those of the trained task of the same name.
    """
    changed: dict[str, Any] = dict(trained)
    trained_tasks = trained.get("task") or {}
    for name, task in ((options["benchmark"] or {}).get("task") or {}).items():
        stated = {key: value for key, value in task.items() if value is not None}
        changed["task"] = {name: {**trained_tasks.get(name, {}), **stated}}
    if options["task"]:
        changed["task"] = options["task"]
    changed["data"] = dict(trained["data"]) | data_options(options)
    feature_folders = [folder for folder in local_shards(changed["data"]["shards"]) if read_identity(folder)]
    # That the features are those of the trained encoder is checked when the checkpoint is loaded.
    if changed.get("encoder") and feature_folders:
        target = f"{CachedEncoder.__module__}.{CachedEncoder.__qualname__}"
        changed["encoder"] = {"_target_": target, "features_of": feature_folders[0]}
    return changed


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
    """Raise ValueError for values outside their range."""
    if not options["few_shot"]:
        raise ValueError("few_shot is null; set few_shot.shots=0 for no demonstrations")
    for name in ("trials", "batch_size", "limit", "devices"):
        if options[name] is not None and options[name] < 1:
            raise ValueError(f"{name} is {options[name]}; set it to 1 or more")


def check_benchmark(options: Mapping[str, Any]) -> None:
    """Raise ValueError if the shards of a benchmark are missing.

    A note of the error lists the files that are needed and the command that writes the shards.
    """
    if not options["benchmark"]:
        return
    data = data_options(options)
    name = options["benchmark"]["source"].replace("_", "-")
    shots = options["few_shot"]["shots"]
    try:
        for split in (data["test_split"], *(["train"] if shots else [])):
            resolve_shards(data["shards"], split, "make them as follows")
    except ValueError as error:
        error.add_note(how_to_make(name, None if shots else data["test_split"], data["shards"]))
        raise
