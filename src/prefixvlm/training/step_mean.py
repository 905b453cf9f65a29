"""The training loss of an optimizer step: a mean over its accumulated batches, which are known one at a time."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class StepMean:
    """Mean of the losses of the batches of one optimizer step on all ranks (trainer.accumulate_grad_batches).

    Losses of one task weigh the same in whichever batch they are, so that 2 batches of 16 are one of 32. Losses of
    different tasks do not: tasks with long targets would drown the others. A loss weighs 1 / (number of losses of the
    step's first batch with that task), so that each batch has about the same share, whatever its task.

    num_losses: float64[tasks], of the first batch with each task; 0 for a task without one so far.
    total, weight: float64[], sums of the weighted losses, and of the weights, of the batches so far.
    """

    # Tensors on the device of the losses, so that no step waits for the GPU.

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self.num_losses = torch.zeros(num_tasks, dtype=torch.float64, device=device)
        self.total, self.weight = self.num_losses.sum(), self.num_losses.sum()

    def add(self, sums_and_counts: Tensor) -> Tensor:
        """Add a batch and return the share of the batches before it in the mean: float64[].

        sums_and_counts: float64[2, tasks], sums_by_task of all ranks.
        """
        sums, counts = sums_and_counts
        # Ranks may have batches of several tasks. Such losses share one weight: as one batch, they are a plain mean.
        self.num_losses = torch.where(self.num_losses > 0, self.num_losses, (counts > 0) * counts.sum())
        before, divisor = self.weight, self.num_losses.clamp(min=1)
        self.total = self.total + (sums / divisor).sum()
        self.weight = before + (counts / divisor).sum()
        return before / self.weight

    @property
    def value(self) -> Tensor:
        """The mean over the batches so far: float64[]."""
        return self.total / self.weight

    def divisor(self, task: int) -> Tensor:
        """Return by what the sum of a rank's losses of a task is divided to be its part of the mean: float64[]."""
        return self.num_losses[task] * self.weight


def sums_by_task(losses: Tensor, task: int, num_tasks: int) -> Tensor:
    """Return the sum and the number of the losses of a batch of one task, in its column: float64[2, num_tasks]."""
    sums = losses.new_zeros(2, num_tasks, dtype=torch.float64)
    sums[0, task], sums[1, task] = losses.detach().sum(dtype=torch.float64), len(losses)
    return sums


def scale_gradients(parameters: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply the gradients of the batches before by their share, in place."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
