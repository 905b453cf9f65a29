"""Random states of torch on every rank, for exact resuming."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def states() -> list[dict[str, Tensor]]:
    """Return the CPU's state, and the GPU's if there is one, of each rank. Every rank must call it."""
    # The ranks draw different dropout, but Lightning lets rank 0 alone write the checkpoint.
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()  # of the current device: a process has one GPU
    gathered: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        gathered = [None] * dist.get_world_size()
        dist.all_gather_object(gathered, mine)
    return gathered


def restore(stored: list[dict[str, Tensor]], rank: int) -> None:
    """Restore the state of this rank. A rank that the stored run did not have keeps the state that its seed gave it."""
    if rank < len(stored):
        torch.set_rng_state(stored[rank]["cpu"])
        if "cuda" in stored[rank] and torch.cuda.is_available():
            torch.cuda.set_rng_state(stored[rank]["cuda"])
