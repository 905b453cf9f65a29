"""Export to a folder for the Hugging Face hub: safetensors of what was trained, the configuration and a model card."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from prefixvlm.atomic import replacing_folder
from prefixvlm.checkpoint.hub_folder import CONFIG, DATA_SUFFIXES, FORMAT, FROZEN, TENSORS, find
from prefixvlm.checkpoint.local_parts import AXES, locate
from prefixvlm.data.shards.manifest import sha256
from prefixvlm.encoder.local_clip import LOCAL
from prefixvlm.export.model_card import model_card
from prefixvlm.export.scores import find_metrics, read_metrics
from prefixvlm.provenance.redaction import redact
from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load

CARD = "README.md"
LOCAL_KEYS = {"encoder": ("model_name", "pretrained"), "lm": ("name",)}  # options that may name a local folder or file


def export_hub(
    checkpoint: Path, out: Path, metrics: Path | None = None, include_frozen: bool = False, licence: str | None = None
) -> str:
    """Write the folder `out` for prefixvlm.load, and return a line about it.

    metrics: metrics.json of an evaluation; None for the one beside the checkpoint, if there is one.
    include_frozen: copy local folders of the encoder and of the language model. licence: of what was trained.
    Raises ValueError if a local part to be copied is not safetensors, or if `metrics` is of another checkpoint.
    """
    path = find(checkpoint)
    content = load(path)
    scores = read_metrics(metrics, path) if metrics else find_metrics(path)
    ours = {name: value for name, value in content[KEY].items() if name != "rng"}
    config = locate(ours["config"], path, (*AXES, "data"))
    local = dict(_local_parts(config))
    with replacing_folder(out) as folder:
        state: dict[str, Tensor] = {name: each.contiguous() for name, each in content["state_dict"].items()}
        (folder / TENSORS).write_bytes(save(_unshared(state), {"format": "pt"}))
        copied = _copy(ours["config"], local, folder) if include_frozen else {}
        stored = {
            "format": FORMAT,
            "sha256": sha256(folder / TENSORS),
            "global_step": content.get("global_step", 0),
            "epoch": content.get("epoch", 0),
            KEY: ours | {"config": ours["config"] | copied},
            "callbacks": {name: each for name, each in (content.get("callbacks") or {}).items() if name == "History"},
        }
        stored = without_home(redact(stored))
        (folder / CONFIG).write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        # By the path in the configuration, for which a reader's folders are searched, not by the one of this machine.
        named = {axis: ours["config"][axis][key].removeprefix(LOCAL) for axis, (key, _) in local.items()}
        missing = {} if include_frozen else named
        card = model_card(stored, state, scores, config, missing, licence)
        (folder / CARD).write_text(without_home(redact(card)), encoding="utf-8")
        load(folder)  # what was written can be read
    parts = ", and the frozen " + " and ".join(copied) if copied else ""
    needed = "".join(
        f"; who loads it needs {part}, the {axis} (--include-frozen copies it)" for axis, part in missing.items()
    )
    return f"{len(state)} tensors, {CONFIG} and a model card{parts}; prefixvlm.load reads the folder{needed}"


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that each have a storage of their own, which safetensors requires."""
    owners: dict[int, str] = {}
    return {
        name: tensor if owners.setdefault(tensor.untyped_storage().data_ptr(), name) == name else tensor.clone()
        for name, tensor in state.items()
    }


def without_home(value: Any) -> Any:
    """Return plain data with ~ in place of the user's home folder, whose name is nobody's business."""
    home = str(Path.home())
    if isinstance(value, Mapping):
        return {name: without_home(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_home(each) for each in value]
    return value.replace(f"{home}/", "~/") if isinstance(value, str) and len(home) > 1 else value


def _local_parts(config: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, Path]]]:
    """Yield the axes whose weights lie in a folder or a file of the user's own, with the option and the path."""
    for axis, keys in LOCAL_KEYS.items():
        for key in keys:
            text = (config.get(axis) or {}).get(key)
            if isinstance(text, str) and (text.startswith(LOCAL) or Path(text).exists()):
                yield axis, (key, Path(text.removeprefix(LOCAL)))


def _copy(config: Mapping[str, Any], local: Mapping[str, tuple[str, Path]], folder: Path) -> dict[str, Any]:
    """Copy the local parts to the folder, and return their nodes of the configuration, which name the copies."""
    changed: dict[str, Any] = {}
    for axis, (key, part) in local.items():
        files = [part] if part.is_file() else [each for each in sorted(part.glob("*")) if each.is_file()]
        files = [each for each in files if each.suffix in DATA_SUFFIXES]
        if not any(each.suffix == ".safetensors" for each in files):
            raise ValueError(
                f"the {axis} {part} has no .safetensors, and --include-frozen copies no pickles; convert it"
            )
        place = folder / FROZEN / axis
        place.mkdir(parents=True)
        for each in files:
            shutil.copyfile(each, place / each.name)
        target = f"{FROZEN}/{axis}/{part.name}" if part.is_file() else f"{FROZEN}/{axis}"
        prefix = LOCAL if config[axis][key].startswith(LOCAL) else ""
        changed[axis] = {**config[axis], key: f"{prefix}{target}"}
    return changed
