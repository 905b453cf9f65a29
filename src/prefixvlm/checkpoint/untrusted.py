"""Checks of a checkpoint from a stranger, before it is loaded and before its content is used."""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from prefixvlm.strict_json import MAX_DEPTH, convert

MAX_PLAIN = 10**7  # characters and values of the plain data, far more than a configuration and a history have

Node = dict[str, Any] | None


@dataclass
class StoredConfig:
    """The configuration of a checkpoint: a node for each axis. It is empty if a module was built without one."""

    encoder: Node = None
    lm: Node = None
    mapper: Node = None
    module: Node = None
    data: Node = None
    trainer: Node = None
    optim: Node = None
    task: dict[str, dict[str, Any]] | None = None
    tune: dict[str, Node] | None = None
    seed: int = 0


@dataclass
class StoredRun:
    """Our own entries; see RunRecord.content."""

    config: StoredConfig
    identity: dict[str, str]
    lineage: list[dict[str, Any]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    cut_texts: int = 0


@dataclass
class StoredCheckpoint:
    """What an evaluation reads of a checkpoint."""

    prefixvlm: StoredRun
    state_dict: dict[str, Any]
    global_step: int = 0


def check_archive(path: Path) -> None:
    """Raise ValueError unless a file is a zip archive whose members are stored as they are, with right checksums."""
    # torch.load also inflates members, to a thousand times their size, and checks no checksums.
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
        if any(each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size for each in members):
            raise ValueError("it is compressed")
        if sum(each.file_size for each in members) > path.stat().st_size:
            raise ValueError("its members overlap")
        if damaged := file.testzip():
            raise ValueError(f"wrong checksum of {damaged}")


def check_content(checkpoint: dict[str, Any]) -> None:
    """Raise ValueError unless a checkpoint of PrefixModule has the right structure, of plain data and tensors."""
    check_plain({name: value for name, value in checkpoint["prefixvlm"].items() if name != "rng"})
    convert(checkpoint, StoredCheckpoint)
    for name, tensor in checkpoint["state_dict"].items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{name} is not a dense tensor")


def require(config: Mapping[str, Any], *axes: str) -> None:
    """Raise ValueError unless the configuration of a checkpoint has these axes."""
    if missing := [axis for axis in axes if not config.get(axis)]:
        raise ValueError(
            f"the configuration in the checkpoint has no {missing[0]}; set ckpt to a checkpoint of train.py"
        )


def check_plain(content: Any) -> None:
    """Raise ValueError unless content is made of dicts, lists, texts and numbers alone, and within the limits."""
    # A pickle may hold one list many times over, or a list in itself, so few bytes can be endless to walk.
    level, total = [content], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            kind = type(value)
            if kind is dict and all(type(key) is str for key in value):
                below += [*value, *value.values()]
            elif kind in (list, tuple):
                below += value
            elif kind not in (str, int, float, bool, type(None)) or (kind is int and value.bit_length() > 64):
                raise ValueError(f"it holds {kind.__name__} {str(value)[:40]!r} where plain data is expected")
            total += len(value) if kind is str else 1
            if total + len(below) > MAX_PLAIN:
                raise ValueError(f"it holds more than {MAX_PLAIN} characters and values of plain data")
        if not below:
            return
        level = below
    raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
