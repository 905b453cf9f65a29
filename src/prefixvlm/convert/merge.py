"""A checkpoint with a tuned language model goes in; that model as plain weights and a checkpoint upon it come out."""

import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.model.trained_state import fingerprint
from prefixvlm.training.checkpoint import KEY, AtomicCheckpointIO, load

MODEL, CHECKPOINT = "lm", "merged.ckpt"
KEPT = ("epoch", "global_step", "pytorch-lightning_version")  # no state of an optimizer: nothing goes on from it


def merge(path: Path, out: Path, build_merged: Callable[[dict[str, Any]], Any]) -> None:
    """Write out/lm, for transformers, and out/merged.ckpt, for an evaluation; both, or nothing.

    build_merged: what makes a module with a merged language model of a checkpoint. Raises ValueError if out is there.
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
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    parent = {"checkpoint": str(path), "sha256": sha256, "step": checkpoint["global_step"]}
    changed = {
        "config": config,
        "identity": ours["identity"] | {"lm": fingerprint(lm)},
        "lineage": [*ours.get("lineage", []), parent],
    }
    state = {name: value for name, value in checkpoint["state_dict"].items() if not name.startswith("model.lm.")}
    callbacks = {name: value for name, value in checkpoint["callbacks"].items() if name == "History"}  # for the report
    merged = {key: checkpoint[key] for key in KEPT} | {"state_dict": state, "callbacks": callbacks, KEY: ours | changed}
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        temporary.chmod(out.parent.stat().st_mode & 0o777)  # mkdtemp's are for their owner alone
        lm.model.save_pretrained(temporary / MODEL)
        lm.tokenizer.save_pretrained(temporary / MODEL)
        AtomicCheckpointIO().save_checkpoint(merged, temporary / CHECKPOINT)
        temporary.rename(out)
    except SafetensorError as error:  # its way to say that the disk is full
        raise OSError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _node(lm: LanguageModel, node: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What of a configuration loads the model from a folder: as before, where the options are about something else."""
    loader: Any = type(lm)
    accepted = inspect.signature(loader.from_pretrained).parameters.keys() - {"name", "revision", "weights"}
    target = f"{loader.__module__}.{loader.__qualname__}.from_pretrained"
    return {"_target_": target, "name": str(folder), **{k: v for k, v in node.items() if k in accepted}}
