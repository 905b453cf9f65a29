"""Gradients that are accumulated over batches and ranks, compared with those of the mean over all losses."""

import pytest
import torch

from prefixvlm.training.step_mean import StepMean, scale_gradients, sums_by_task


def accumulated(batches, weight):
    """Return the gradient of a step, as PrefixModule makes it, and the logged mean.

    batches: for each accumulated batch, for each rank, its task and inputs float64[n, 3], whose products with the
    weight are the losses.
    """
    mean, world = StepMean(2, torch.device("cpu")), len(batches[0])
    parameters = [torch.nn.Parameter(weight.clone()) for _ in range(world)]
    for number, ranks in enumerate(batches):
        losses = [inputs @ parameter for (_, inputs), parameter in zip(ranks, parameters, strict=True)]
        share = mean.add(sum(sums_by_task(each, task, 2) for each, (task, _) in zip(losses, ranks, strict=True)))
        for each, (task, _), parameter in zip(losses, ranks, parameters, strict=True):
            if number:
                scale_gradients([parameter], share)
            (each.sum() * world / mean.divisor(task)).backward()
    return sum(parameter.grad for parameter in parameters) / world, mean.value  # as DDP averages


def inputs(*lengths):
    generator = torch.Generator().manual_seed(sum(lengths))
    return [torch.randn(length, 3, generator=generator, dtype=torch.float64) for length in lengths]


WEIGHT = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)


@pytest.mark.parametrize("world", [1, 2])
def test_every_loss_of_one_task_weighs_the_same(world):
    parts = inputs(2, 11, 5, 1, 3, 8)
    batches = [[(1, part) for part in parts[start : start + world]] for start in range(0, 6, world)]
    gradient, value = accumulated(batches, WEIGHT)
    every = torch.cat(parts)
    torch.testing.assert_close(gradient, every.mean(0))
    torch.testing.assert_close(value, (every @ WEIGHT).mean())
    assert not torch.allclose(gradient, torch.stack([part.mean(0) for part in parts]).mean(0))


def test_a_task_of_long_targets_does_not_drown_another():
    long, short, longer, shorter = inputs(90, 3, 110, 2)
    gradient, _ = accumulated([[(0, long)], [(1, short)], [(0, longer)], [(1, shorter)]], WEIGHT)
    weights = 90 + 110, 3 + 2
    shares = weights[0] / 90, weights[1] / 3  # about 2 batches each
    mean = sum(s * torch.cat(p).mean(0) for s, p in zip(shares, ((long, longer), (short, shorter)), strict=True))
    torch.testing.assert_close(gradient, mean / sum(shares))


def test_one_batch_of_tasks_that_differ_between_ranks_is_a_plain_mean():
    one, other = inputs(7, 2)
    gradient, value = accumulated([[(0, one), (1, other)]], WEIGHT)
    torch.testing.assert_close(gradient, torch.cat([one, other]).mean(0))
    torch.testing.assert_close(value, (torch.cat([one, other]) @ WEIGHT).mean())
