"""Configuration of an evaluation: that of the checkpoint, with other tasks and data."""

from collections.abc import Mapping
from typing import Any

from prefixvlm.checkpoint.untrusted import require
from prefixvlm.encoder.cached import CachedEncoder, local_shards, read_identity
from prefixvlm.evaluation.options import data_options


def evaluation_config(options: Mapping[str, Any], trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration to evaluate.

    options: the configuration of eval.py. trained: the configuration of the checkpoint. Options of a benchmark's task
    that are null are those of the trained task of the same name.
    """
    require(trained, "data")
    changed: dict[str, Any] = dict(trained)
    trained_tasks = trained.get("task") or {}
    for name, task in ((options["benchmark"] or {}).get("task") or {}).items():
        stated = {key: value for key, value in task.items() if value is not None}
        changed["task"] = {name: {**trained_tasks.get(name, {}), **stated}}
    if options["task"]:
        changed["task"] = options["task"]
    chosen = data_options(options)
    if "shards" not in chosen:
        check_stored_shards(trained["data"].get("shards"))
    changed["data"] = stored_data(trained["data"]) | chosen
    feature_folders = [folder for folder in local_shards(changed["data"]["shards"]) if read_identity(folder)]
    # That the features are those of the trained encoder is checked when the checkpoint is loaded.
    if changed.get("encoder") and feature_folders:
        target = f"{CachedEncoder.__module__}.{CachedEncoder.__qualname__}"
        changed["encoder"] = {"_target_": target, "features_of": feature_folders[0]}
    return changed


def stored_data(trained: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the data module that an evaluation takes from a checkpoint."""
    # A stranger's checkpoint does not choose the folder in which shards are written, and the oldest removed.
    return {name: value for name, value in trained.items() if name not in ("cache_dir", "cache_limit")}


def check_stored_shards(shards: Any) -> None:
    """Raise ValueError for shards of a checkpoint that would be fetched."""
    if "://" in str(shards):
        raise ValueError(
            f"the checkpoint was trained with data.shards={shards}, and nothing is fetched because a checkpoint names "
            "it; set shards to this URL, or to a folder of shards"
        )
