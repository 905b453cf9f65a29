"""Bad samples go in as batches bring them; a warning for each, and an error when they are too many, come out."""

import logging
from collections.abc import Iterable

import torch.distributed as dist

Bad = tuple[str, str]  # which sample, and what is wrong with it
logger = logging.getLogger(__name__)


class BadSamples:
    """Counts distinct bad samples of an epoch of num_samples. fraction: of these, how many may be bad."""

    def __init__(self, fraction: float, num_samples: int) -> None:
        if not 0 <= fraction <= 1:
            raise ValueError(f"data.max_bad_fraction is {fraction}; set it to 0 (none may be bad) to 1")
        self.fraction, self.num_samples = fraction, num_samples
        self.bad: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self.bad)

    def add(self, bad: Iterable[Bad]) -> None:
        """Raises ValueError where they are too many."""
        for name, reason in bad:
            if name not in self.bad:
                self.bad[name] = reason
                self._check()
                logger.warning("skipped a bad sample: %s", reason)

    def gather(self) -> None:
        """Make every rank know the bad samples of all; all must call it. Raises ValueError where they are too many."""
        if dist.is_available() and dist.is_initialized():
            everyone: list[dict[str, str]] = [{}] * dist.get_world_size()
            dist.all_gather_object(everyone, self.bad)
            self.bad = {name: reason for bad in everyone for name, reason in bad.items()}
        self._check()

    def restore(self, bad: dict[str, str]) -> None:
        """What a checkpoint knows; it was warned of then."""
        self.bad |= bad

    def _check(self) -> None:
        if len(self.bad) > self.fraction * self.num_samples:
            reason = next(reversed(self.bad.values()))
            raise ValueError(
                f"{reason}; bad samples: {len(self.bad)}, more than data.max_bad_fraction={self.fraction:g} of "
                f"{self.num_samples}: make the shards again, or set it higher"
            )
