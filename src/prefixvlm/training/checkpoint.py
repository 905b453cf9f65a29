"""Checkpoint files: written atomically, read without running code, and checked against the model."""

import hashlib
import io
import os
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor

from prefixvlm.atomic import replacing_file

KEY = "prefixvlm"  # key of our own entries in Lightning's checkpoint: config, identity, lineage, provenance, ...
EMA = "ema"  # key of the Ema callback's raw tensors; the averages are the trained tensors of the checkpoint
AVERAGED = "averaged"  # key under which that callback passes averaged tensors to PrefixModule.on_save_checkpoint
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # a run resumes from the first, or from the second if it is damaged


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, and keeps the one before the last."""

    # Lightning stages the file in $TMPDIR. If that is another file system, the final move is a copy, and a kill leaves
    # a truncated file under the final name (Lightning #21253).

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        buffer = io.BytesIO()  # torch.save can fail silently on a full disk; writing bytes raises OSError
        torch.save(checkpoint, buffer)
        with replacing_file(path) as file:
            file.write(buffer.getbuffer())
            # Only once the new bytes are written, so that a full disk costs neither of the two older checkpoints.
            file.flush()
            if path.name == LAST and path.exists():
                _link_or_copy(path, path.with_name(PREVIOUS))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return _read(path)  # with weights_only=True, whatever is passed: loading must never run code

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def newest(folder: Path) -> Path | None:
    """Return the newest readable checkpoint of a folder, and remove the temporary files of interrupted writes.

    Prints a warning if it is not last.ckpt. Raises ValueError if there are checkpoints and none can be read.
    """
    for unfinished in folder.glob(".*.tmp"):
        unfinished.unlink(missing_ok=True)
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if path.is_file():
            try:
                _read(path)
            except ValueError as error:
                problems.append(str(error))
            else:
                for problem in problems:
                    print(f"{problem}; the run resumes from {path.name}, the one before it", file=sys.stderr)
                return path
    if problems:
        raise ValueError(f"{'; '.join(problems)}; set resume=never to start over")
    return None


def _link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name, or copy it where the file system has no hard links."""
    # A link cannot replace a file, but the rename of a link can, so that PREVIOUS is never missing.
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    try:
        temporary.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(other)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it. Raises ValueError if it is not a checkpoint of PrefixModule."""
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint file {path}; set ckpt to a .ckpt file of a run")
    checkpoint = _read(path)
    ours = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or not ours.keys() >= {"config", "identity"}:
        raise ValueError(f"{path} is not the checkpoint of a mapper that prefixvlm trained; set ckpt to one")
    return checkpoint


def lineage(path: str | Path, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lineage of a run that starts from a checkpoint: the checkpoint after its own lineage."""
    # The hash identifies the file wherever it is moved.
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    parent = {"checkpoint": str(path), "sha256": sha256, "step": checkpoint["global_step"]}
    return [*checkpoint[KEY].get("lineage", []), parent]


def history(checkpoint: Mapping[str, Any]) -> Mapping[str, list[dict[str, Any]]]:
    """Return the `records` of scalars and the `examples` of predictions that the History callback has stored."""
    return {"records": [], "examples": [], **checkpoint["callbacks"].get("History", {})}


def check_tensors(trained: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the trained tensors of the model and of the file have the same names and shapes."""
    # load_state_dict(strict=False), which the missing frozen tensors require, ignores a renamed trained tensor.
    ours, theirs = ({f"{name} {tuple(t.shape)}" for name, t in side.items()} for side in (trained, stored))
    if ours != theirs:
        raise ValueError(
            f"the checkpoint does not fit the model: it lacks {sorted(ours - theirs)[:3] or 'nothing'} and has "
            f"{sorted(theirs - ours)[:3] or 'nothing'} that the model does not train; use the configuration that it "
            "was trained with"
        )


def check_identity(ours: dict[str, Any], stored: dict[str, Any]) -> None:
    """Raise ValueError unless the frozen parts are those that the mapper was trained with."""
    # A prefix means nothing to another language model, even if all shapes fit.
    for part in stored:
        if ours.get(part) != stored[part]:
            raise ValueError(
                f"the checkpoint was trained with {part} {stored[part]} but this {part} is {ours.get(part)}; "
                f"set {part} to the one it was trained with"
            )


def _read(path: str | Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not check the checksums that torch.save writes
            if damaged := file.testzip():
                raise ValueError(f"wrong checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the unpickler raises nearly anything
        reason = str(error).strip().split("\n")[0][:120]
        raise ValueError(f"{path} is not a checkpoint, or a damaged one ({reason})") from error
