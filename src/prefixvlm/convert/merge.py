"""Merges tuned weights, as of LoRA, into the language model and writes it with a checkpoint that uses it."""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefixvlm.atomic import replacing_folder
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.lm.saving import save_pretrained
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.training.checkpoint import KEY, for_evaluation, lineage
from prefixvlm.training.checkpoint_file import AtomicCheckpointIO, load

MODEL, CHECKPOINT = "lm", "merged.ckpt"


def merge(path: Path, out: Path, build_merged: Callable[[dict[str, Any]], Any]) -> None:
    """Write out/lm, which transformers can load, and out/merged.ckpt, for an evaluation.

    build_merged: builds the module of a checkpoint with the merged language model.
    Raises ValueError if `out` exists.
    """
    out = out.resolve()
    if out.exists():
        raise ValueError(f"{out} exists; set --out to a new folder")
    checkpoint = load(path)
    module = build_merged(checkpoint)
    lm: LanguageModel = module.model.lm.requires_grad_(False)
    ours = checkpoint[KEY]
    config = {key: value for key, value in ours["config"].items() if key != "tune"}
    config["lm"] = _node(lm, config["lm"], out / MODEL)
    changed = {
        "config": config,
        "identity": ours["identity"] | {"lm": fingerprint(lm)},
        "lineage": lineage(path, checkpoint),
    }
    state = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("model.lm.")}
    merged = for_evaluation(checkpoint | {"state_dict": state, KEY: ours | changed})
    with replacing_folder(out) as folder:
        save_pretrained(lm.model, lm.tokenizer, folder / MODEL)
        AtomicCheckpointIO().save_checkpoint(merged, folder / CHECKPOINT)


def _node(lm: LanguageModel, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return a configuration that loads the model from a folder, with the other options of the former one."""
    # The class's own from_pretrained: a loader of a certain model, as smollm2, has options of its own.
    loader: Any = type(lm)
    accepted = inspect.signature(loader.from_pretrained).parameters.keys() - {"name", "revision", "weights"}
    target = f"{loader.__module__}.{loader.__qualname__}.from_pretrained"
    return {"_target_": target, "name": str(folder), **{k: v for k, v in node.items() if k in accepted}}
