"""Training steps of both sides, timed and checked to give the same loss."""

import random
from functools import partial

import torch
from baseline import ClipCap
from measure import Clock
from sides import FEATURE_WIDTH, Sizes, batch_of, caption_lengths, our_model, random_captions, random_mapper
from torch import Tensor
from transformers import GPT2LMHeadModel

from prefixvlm.batch import Batch
from prefixvlm.model.prefix_lm import PrefixLM

LONGEST = max(caption_lengths())


def our_step(model: PrefixLM, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    model.zero_grad()
    model(batch).mean().backward()
    optimizer.step()


def baseline_step(
    model: ClipCap, optimizer: torch.optim.Optimizer, features: Tensor, captions: list[list[int]]
) -> None:
    # Also frees the gradients of the language model, which the baseline computes and does not use.
    model.zero_grad()
    model.loss(features, captions, LONGEST).backward()
    optimizer.step()


def adamw(model: PrefixLM | ClipCap) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.mapper.parameters(), lr=2e-5)  # ClipCap's learning rate


class Steps:
    """Training steps with one mapper: of the baseline, and of ours in each precision."""

    def __init__(self, name: str, sizes: Sizes, lms: dict[str, GPT2LMHeadModel]) -> None:
        self.name, self.sizes, self.rng = name, sizes, random.Random(0)
        self.baseline = ClipCap(random_mapper(name, sizes), lms["baseline"])
        self.ours = {key: our_model(random_mapper(name, sizes), lm) for key, lm in lms.items() if key != "baseline"}
        self.optimizers = {key: adamw(model) for key, model in [("baseline", self.baseline), *self.ours.items()]}

    def data(self, num_batches: int = 1) -> tuple[Tensor, list[list[int]]]:
        num = num_batches * self.sizes.batch
        return torch.randn(num, 1, FEATURE_WIDTH), random_captions(self.rng, num, self.sizes.vocabulary)

    @torch.no_grad()
    def check(self) -> float:
        """Return the difference between the losses of the two sides; asserts that it is small."""
        features, captions = self.data()
        ours = self.ours["fp32"](batch_of(features, captions)).mean()
        difference = abs(float(ours - self.baseline.loss(features, captions, LONGEST)))
        assert difference < 1e-4, f"the losses of the two sides differ by {difference}"
        return difference

    def warm_up(self) -> None:
        # The first step allocates memory and creates AdamW's state.
        features, captions = (part[:4] for part in self.data())
        baseline_step(self.baseline, self.optimizers["baseline"], features, captions)
        for key, model in self.ours.items():
            our_step(model, self.optimizers[key], batch_of(features, captions))

    def by_length(self, quantile: float) -> Batch:
        """Return one batch of a pool sorted by length: the shortest captions at 0, the longest towards 1."""
        features, captions = self.data(self.sizes.pool)
        start = int(quantile * self.sizes.pool) * self.sizes.batch
        return batch_of(features[: self.sizes.batch], sorted(captions, key=len)[start : start + self.sizes.batch])

    def round(self, clock: Clock, quantile: float) -> None:
        features, captions = self.data()
        batches = {"": batch_of(features, captions), "_by_length": self.by_length(quantile)}
        clock.time(
            f"baseline step_{self.name}",
            lambda: baseline_step(self.baseline, self.optimizers["baseline"], features, captions),
        )
        for key, model in self.ours.items():
            for suffix, batch in batches.items():
                call = partial(our_step, model, self.optimizers[key], batch)
                clock.time(f"ours {job_name(f'step_{self.name}', key)}{suffix}", call)


def job_name(name: str, key: str) -> str:
    return name if key == "fp32" else f"{name}_{key}"
