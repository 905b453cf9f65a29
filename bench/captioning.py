"""Greedy decoding and beam search of both sides, timed and checked to give the same captions."""

import statistics
from functools import partial

import torch
from baseline import ClipCap
from measure import Clock
from sides import FEATURE_WIDTH, Sizes, batch_of, caption_lengths
from steps import job_name
from torch import Tensor

from prefixvlm.model import decoding
from prefixvlm.model.prefix_lm import PrefixLM

NUM_BEAMS = 5  # as in ClipCap's released code


class Captioning:
    """Captions of random images."""

    def __init__(self, sizes: Sizes, ours: dict[str, PrefixLM], baseline: ClipCap) -> None:
        self.sizes, self.ours, self.baseline = sizes, ours, baseline
        # A random language model does not end with EOS where a real one would: all captions have the mean length.
        self.num_tokens = round(statistics.mean(caption_lengths()))

    def features(self) -> Tensor:
        return torch.randn(self.sizes.images, 1, FEATURE_WIDTH)

    def greedy(self, model: PrefixLM, features: Tensor) -> list[list[int]]:
        return decoding.greedy(model, batch_of(features, [[]] * len(features)), self.num_tokens)

    def beam(self, model: PrefixLM, features: Tensor) -> list[list[int]]:
        return decoding.beam(model, batch_of(features, [[]] * len(features)), self.num_tokens, NUM_BEAMS)

    def check(self) -> int:
        """Return the number of captions of each kind that were compared; asserts that all are identical."""
        features, num = self.features(), 2 * self.sizes.baseline_images
        greedy, beam = self.greedy(self.ours["fp32"], features), self.beam(self.ours["fp32"], features)
        for image, one in enumerate(features[:num].split(1)):
            assert greedy[image] == self.baseline.greedy(one, self.num_tokens), f"greedy captions {image} differ"
            assert beam[image] == self.baseline.beam(one, self.num_tokens, NUM_BEAMS), f"beam captions {image} differ"
        return num

    def round(self, clock: Clock) -> None:
        features = self.features()
        some = features[: self.sizes.baseline_images].split(1)
        scale = self.sizes.images / len(some)
        clock.time("baseline greedy", lambda: [self.baseline.greedy(one, self.num_tokens) for one in some], scale)
        for key, model in self.ours.items():
            clock.time(f"ours {job_name('greedy', key)}", partial(self.greedy, model, features))
        beam = partial(self.baseline.beam, num_tokens=self.num_tokens, num_beams=NUM_BEAMS)
        clock.time("baseline beam5", lambda: [beam(one) for one in some], scale)
        for key, model in self.ours.items():
            clock.time(f"ours {job_name('beam5', key)}", partial(self.beam, model, features))
