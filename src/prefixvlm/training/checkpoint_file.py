"""Checkpoint files: written atomically, and read without running code."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO

from prefixvlm.atomic import link_or_copy, replacing_file
from prefixvlm.checkpoint.hub_folder import CONFIG, find, read_folder
from prefixvlm.checkpoint.untrusted import check_archive, check_content
from prefixvlm.training.checkpoint import KEY, for_evaluation

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"  # a run resumes from the first, or from the second if it is damaged
FOR_EVALUATION = "for_evaluation"  # a storage option of Trainer.save_checkpoint: write only what an evaluation needs


class AtomicCheckpointIO(CheckpointIO):
    """Writes checkpoints atomically, and keeps the one before the last."""

    # Lightning stages the file in $TMPDIR. If that is another file system, the final move is a copy, and a kill leaves
    # a truncated file under the final name (Lightning #21253).

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        if storage_options == FOR_EVALUATION:
            checkpoint = for_evaluation(checkpoint)
        buffer = io.BytesIO()  # torch.save can fail silently on a full disk; writing bytes raises OSError
        torch.save(checkpoint, buffer)
        with replacing_file(path) as file:
            file.write(buffer.getbuffer())
            # Only once the new bytes are written, so that a full disk costs neither of the two older checkpoints.
            file.flush()
            if path.name == LAST and path.exists():
                link_or_copy(path, path.with_name(PREVIOUS))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        return read(path)  # with weights_only=True, whatever is passed: loading must never run code

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def load(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, which may be a stranger's, without running code from it.

    path: a file, a folder or a hub id; see hub_folder.find.
    Raises ValueError unless it is a checkpoint of PrefixModule, of plain data and tensors.
    """
    path = find(path)
    checkpoint = read_folder(path) if path.name == CONFIG else read(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(KEY), dict):
        raise ValueError(f"{path} is not the checkpoint of a mapper that prefixvlm trained; set ckpt to one")
    try:
        check_content(checkpoint)
    except ValueError as error:
        raise ValueError(f"{path} is not the checkpoint of a mapper that prefixvlm trained ({error})") from error
    return checkpoint


def read(path: str | Path) -> dict[str, Any]:
    try:
        check_archive(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on arbitrary bytes the unpickler raises nearly anything
        reason = str(error).strip().split("\n")[0][:120]
        raise ValueError(f"{path} is not a checkpoint, or a damaged one ({reason})") from error
