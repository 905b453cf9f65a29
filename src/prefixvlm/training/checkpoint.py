"""Trained tensors and plain data go in; one small file, whole or not there, comes out, and is read back safely."""

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

KEY = "prefixvlm"  # what Lightning's checkpoint holds of ours: config, identity, version
LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # where a run goes on from; and if that is damaged


class AtomicCheckpointIO(CheckpointIO):
    """Writes beside the target and renames: a kill or a full disk leaves the former file whole.

    Lightning's own way stages in $TMPDIR; from there to another file system a move is a copy, which a kill truncates
    (Lightning #21253).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        buffer = io.BytesIO()  # torch.save to a full disk fails without saying so; writing bytes raises OSError
        torch.save(checkpoint, buffer)
        try:
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            if path.name == LAST and path.exists():
                _also_as(path, path.with_name(PREVIOUS))
            temporary.replace(path)
            _flush_folder(path.parent)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return _read(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def newest(folder: Path) -> Path | None:
    """The last checkpoint in a folder that can be read, and what an interrupted write left is removed.

    Says so where that is not the very last. Raises ValueError if there are some and none can be read.
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
                    print(f"{problem}; the run goes on from {path.name}, the one before it", file=sys.stderr)
                return path
    if problems:
        raise ValueError(f"{'; '.join(problems)}; set resume=never to start anew")
    return None


def _also_as(path: Path, other: Path) -> None:
    """A second name for a file, or a copy where the file system has no second names."""
    temporary = other.with_name(f".{other.name}.{os.getpid()}.tmp")
    try:
        temporary.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(other)


def _flush_folder(folder: Path) -> None:
    """The new name too survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code from it. Raises ValueError if it is not one of ours."""
    if not Path(path).is_file():
        raise ValueError(f"there is no checkpoint file {path}; set ckpt to a .ckpt file of a run")
    checkpoint = _read(path)
    ours = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(ours, dict) or not ours.keys() >= {"config", "identity"}:
        raise ValueError(f"{path} is not the checkpoint of a mapper that prefixvlm trained; set ckpt to one")
    return checkpoint


def lineage(path: str | Path, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """The checkpoints that a run which begins with this one comes from, the oldest first."""
    sha256 = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    parent = {"checkpoint": str(path), "sha256": sha256, "step": checkpoint["global_step"]}
    return [*checkpoint[KEY].get("lineage", []), parent]


def check_tensors(trained: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """The trained tensors of the model and of the file must be the same by name and shape."""
    ours, theirs = ({f"{name} {tuple(t.shape)}" for name, t in side.items()} for side in (trained, stored))
    if ours != theirs:
        raise ValueError(
            f"the checkpoint does not fit the model: it lacks {sorted(ours - theirs)[:3] or 'nothing'} and has "
            f"{sorted(theirs - ours)[:3] or 'nothing'} that the model does not train; use the configuration that it "
            "was trained with"
        )


def check_identity(ours: dict[str, Any], stored: dict[str, Any]) -> None:
    """The frozen parts must be the very ones that the mapper was trained between."""
    for part in stored:
        if ours.get(part) != stored[part]:
            raise ValueError(
                f"the checkpoint was trained with {part} {stored[part]} but this {part} is {ours.get(part)}; "
                f"set {part} to the one it was trained with"
            )


def _read(path: str | Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as file:  # torch does not look at the checksums that it writes
            if damaged := file.testzip():
                raise ValueError(f"wrong checksum of {damaged}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the unpickler raises nearly anything
        reason = str(error).strip().split("\n")[0][:120]
        raise ValueError(f"{path} is not a checkpoint, or a damaged one ({reason})") from error
