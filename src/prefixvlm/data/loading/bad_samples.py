"""Count bad samples: warn of each, and raise an error if there are too many."""

import logging
from collections.abc import Iterable

import torch.distributed as dist

Bad = tuple[str, str]  # the name of a sample and what is wrong with it
logger = logging.getLogger(__name__)


class BadSamples:
    """Counts the distinct bad samples of an epoch of num_samples. fraction: how many of these may be bad.

    what: is counted, "sample" or "shard".
    """

    def __init__(self, fraction: float, num_samples: int, what: str = "sample") -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"data.max_bad_fraction is {fraction}; set it to 0 (none may be bad) to 1")
        self.fraction, self.num_samples, self.what = fraction, num_samples, what
        self.bad: dict[str, str] = {}
        self.before = 0  # bad samples of former epochs, where each epoch has other samples

    def __len__(self) -> int:
        return self.before + len(self.bad)

    def start_epoch(self) -> None:
        """Start an epoch of other samples, of which `fraction` may be bad again."""
        self.before, self.bad = len(self), {}

    def add(self, bad: Iterable[Bad]) -> None:
        """Add bad samples. Raises ValueError if there are too many."""
        for name, reason in bad:
            if name not in self.bad:
                self.bad[name] = reason
                self.check()
                logger.warning("skipped a bad %s: %s", self.what, reason)

    def gather(self) -> None:
        """Add the bad samples of all ranks, which must all call this. Raises ValueError if there are too many."""
        if dist.is_available() and dist.is_initialized():
            ranks: list[dict[str, str]] = [{}] * dist.get_world_size()
            dist.all_gather_object(ranks, self.bad)
            self.bad = {name: reason for bad in ranks for name, reason in bad.items()}
        self.check()

    def restore(self, bad: dict[str, str], before: int = 0) -> None:
        """Add the bad samples of a checkpoint, without a warning."""
        self.bad |= bad
        self.before = before

    def check(self) -> None:
        if len(self.bad) > self.fraction * self.num_samples:
            reason = next(reversed(self.bad.values()))
            raise ValueError(
                f"{reason}; bad {self.what}s: {len(self.bad)}, more than data.max_bad_fraction={self.fraction:g} of "
                f"{self.num_samples}: make the shards again, or set it higher"
            )
