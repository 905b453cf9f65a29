"""Resuming a run exactly: which checkpoint it continues from, and the random states of every rank.

The rest of a run's state is restored where it lives: the trained tensors in PrefixModule.on_load_checkpoint, the place
in the data in data/loading/train_loader.py, optimizer and loops by Lightning, and callbacks by themselves.
callbacks/last_checkpoint.py saves where Lightning resumes right.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor

from prefixvlm.distributed.gather import from_all_ranks
from prefixvlm.training.checkpoint import is_resumable
from prefixvlm.training.checkpoint_file import LAST, PREVIOUS, read

RESUME = ("auto", "must", "never")


def checkpoint_to_resume(run_dir: str, resume: str) -> str | None:
    """Return the newest readable checkpoint in run_dir, or None if the run starts from the beginning."""
    if resume not in RESUME:
        raise ValueError(f"resume is {resume!r}; accepted are {', '.join(RESUME)}")
    folder = Path(run_dir) / "checkpoints"
    checkpoint = None if resume == "never" else newest(folder)
    if resume == "must" and checkpoint is None:
        raise ValueError(
            f"there is no {folder / LAST} to resume from; set hydra.run.dir to the run's folder or resume=auto"
        )
    return None if checkpoint is None else str(checkpoint)


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
                checkpoint = read(path)
            except ValueError as error:
                problems.append(str(error))
            else:
                if not is_resumable(checkpoint):
                    raise ValueError(
                        f"{path} is a best checkpoint, without the optimizer's state, and no run resumes from it; put "
                        "the last.ckpt of its run there, or begin a new run from its weights with init_from"
                    )
                for problem in problems:
                    print(f"{problem}; the run resumes from {path.name}, the one before it", file=sys.stderr)
                return path
    if problems:
        raise ValueError(f"{'; '.join(problems)}; set resume=never to start over")
    return None


def rng_states() -> list[dict[str, Tensor]]:
    """Return the CPU's state, and the GPU's if there is one, of each rank. Every rank must call it."""
    # The ranks draw different dropout, but Lightning lets rank 0 alone write the checkpoint.
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()  # of the current device: a process has one GPU
    return from_all_ranks(mine)


def restore_rng(stored: list[dict[str, Tensor]], rank: int) -> None:
    """Restore the state of this rank. A rank that the stored run did not have keeps the state that its seed gave it."""
    if rank < len(stored):
        torch.set_rng_state(stored[rank]["cpu"])
        if "cuda" in stored[rank] and torch.cuda.is_available():
            torch.cuda.set_rng_state(stored[rank]["cuda"])
