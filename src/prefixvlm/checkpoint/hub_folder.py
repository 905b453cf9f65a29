"""Checkpoints as folders of safetensors and JSON, here or on the Hugging Face hub, read without running code."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefixvlm.data.shards.manifest import sha256
from prefixvlm.encoder.local_clip import LOCAL
from prefixvlm.strict_json import MAX_DEPTH, read_json

CONFIG, TENSORS = "prefixvlm.json", "model.safetensors"
FROZEN = "frozen"  # folder of the frozen parts that a user's own folder had
# Neither code nor pickles: what else lies in a repository is not downloaded, and not copied.
DATA_SUFFIXES = (".safetensors", ".json", ".txt", ".model", ".jinja")
FILES = (CONFIG, TENSORS, "README.md", *(f"{FROZEN}/*{suffix}" for suffix in DATA_SUFFIXES))
FORMAT = 1
MAX_CONFIG = 2**26  # bytes; the learning curves of a long run take a few million
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}(@[\w./-]{1,96})?")


@dataclass
class HubFolder:
    """Content of CONFIG. prefixvlm: see RunRecord.content. sha256: of TENSORS."""

    format: int
    sha256: str
    prefixvlm: dict[str, Any]
    global_step: int = 0
    epoch: int = 0
    callbacks: dict[str, Any] = field(default_factory=dict)


def find(name: str | os.PathLike[str]) -> Path:
    """Return the file of a checkpoint: a .ckpt, or CONFIG in a folder.

    name: the file, the folder, or a hub id as user/name or user/name@revision, which is downloaded once.
    Raises ValueError if there is none.
    """
    return find_here(name) or _download(os.fspath(name)) / CONFIG


def find_here(name: str | os.PathLike[str], key: str = "ckpt") -> Path | None:
    """Return the file of a checkpoint as `find`, or None for a hub id. key: the option, for the error message."""
    path = Path(name)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ValueError(f"there is no {CONFIG} in {path}; set {key} to a file, or to a folder of --to hub")
        return path / CONFIG
    if path.is_file():
        return path
    # A path into a folder that exists here is a mistake, and not a repository.
    if not _HUB_ID.fullmatch(os.fspath(name)) or path.suffix in (".ckpt", ".json") or path.parent.exists():
        raise ValueError(f"there is no checkpoint file {name}; set {key} to a .ckpt file of a run")
    return None


def _download(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        folder = Path(
            huggingface_hub.snapshot_download(repository, revision=revision or None, allow_patterns=list(FILES))
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise ValueError(
            f"{name} is neither a checkpoint file or folder here, nor could it be downloaded from the hub ({reason})"
        ) from error
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{name} on the hub has no {CONFIG}, so it is not of `prefixvlm export --to hub`")
    return folder


def read_folder(config: Path) -> dict[str, Any]:
    """Return the content of a folder as that of a checkpoint. config: the path of its CONFIG.

    Raises ValueError unless it has the files of an export, as they were written.
    """
    from safetensors.torch import load_file

    stored = read_json(config, HubFolder, "the configuration of an exported checkpoint", MAX_CONFIG)
    if stored.format != FORMAT:
        raise ValueError(
            f"{config} has format {stored.format}, and this version reads {FORMAT}; install another version"
        )
    tensors = config.with_name(TENSORS)
    if not tensors.is_file():
        raise ValueError(f"there is no {tensors}, the tensors of {config}; copy the whole folder")
    try:
        # safetensors has no checksum; its header is checked against the size of the file when it is opened.
        if sha256(tensors) != stored.sha256:
            raise ValueError(f"its checksum is not that of {CONFIG}")
        state = load_file(tensors)
    except Exception as error:  # SafetensorError is an Exception of its own
        raise ValueError(f"{tensors} is not the file of an exported checkpoint ({str(error)[:120]})") from error
    ours = {**stored.prefixvlm, "config": _with_frozen(stored.prefixvlm.get("config"), config.parent)}
    return {
        "state_dict": state, "prefixvlm": ours, "global_step": stored.global_step, "epoch": stored.epoch,
        "callbacks": stored.callbacks,
    }  # fmt: skip


def _with_frozen(node: Any, folder: Path, depth: int = 0) -> Any:
    """Return a configuration with the paths of the folder's own frozen parts as they are on this machine."""
    if isinstance(node, dict) and depth < MAX_DEPTH:
        return {name: _with_frozen(value, folder, depth + 1) for name, value in node.items()}
    own = isinstance(node, str) and node.removeprefix(LOCAL).startswith(f"{FROZEN}/")
    if not own or not (path := folder / node.removeprefix(LOCAL)).exists():
        return node
    return f"{LOCAL if node.startswith(LOCAL) else ''}{path.absolute()}"
