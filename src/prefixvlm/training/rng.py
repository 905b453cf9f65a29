"""torch's random states of every rank go into a checkpoint, and come back out of it."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def states() -> list[dict[str, Tensor]]:
    """Of each rank: its CPU's, and its GPU's where it has one. Every rank calls it."""
    mine = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        mine["cuda"] = torch.cuda.get_rng_state()
    everyone: list[Any] = [mine]
    if dist.is_available() and dist.is_initialized():
        everyone = [None] * dist.get_world_size()
        dist.all_gather_object(everyone, mine)
    return everyone


def restore(stored: list[dict[str, Tensor]], rank: int) -> None:
    """This rank's; one that there was not before keeps the state that its seed gave it."""
    if rank < len(stored):
        torch.set_rng_state(stored[rank]["cpu"])
        if "cuda" in stored[rank] and torch.cuda.is_available():
            torch.cuda.set_rng_state(stored[rank]["cuda"])
