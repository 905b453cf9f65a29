"""Training steps and captioning on one device: prefixvlm beside a plain loop with transformers."""

import gc
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from gpu_models import Size, step_flops
from sides import batch_of, random_captions
from torch import Tensor

from prefixvlm.batch import IGNORE_INDEX, Batch
from prefixvlm.model import decoding
from prefixvlm.model.prefix_lm import PrefixLM

NUM_TOKENS, NUM_BEAMS, NUM_IMAGES = 32, 5, 32  # of captioning


class Steps:
    """Steps of one model. plain: as a user of transformers writes them, over padded rows and all logits."""

    def __init__(self, model: PrefixLM, size: Size, plain: bool = False) -> None:
        self.model, self.size, self.plain = model, size, plain
        self.optimizer = torch.optim.AdamW(model.mapper.parameters(), lr=1e-4, fused=self.device.type == "cuda")

    @property
    def device(self) -> torch.device:
        return next(self.model.mapper.parameters()).device

    def batch(self, seed: int, num: int | None = None, with_captions: bool = True) -> Batch:
        """Return random images with captions as long as real ones."""
        num, rng = num or self.size.batch, random.Random(seed)
        captions = random_captions(rng, num, self.size.vocabulary) if with_captions else [[]] * num
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randn(num, 3, *self.model.encoder.visual.image_size, generator=generator)
        return batch_of(pixels, captions, self.model.mapper.prefix_length).to(self.device)

    def loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.model.lm.dtype == torch.bfloat16):
            return plain_loss(self.model, batch) if self.plain else self.model(batch).mean()

    def step(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.loss(batch).backward()
        self.optimizer.step()

    def measure(self, num_steps: int) -> dict[str, float]:
        """Return the medians of steps on different batches, after two that are not counted."""
        batches = [self.batch(seed) for seed in range(num_steps)]
        reset_peak(self.device)
        seconds = [timed(lambda each=each: self.step(each), self.device) for each in [*batches[:2], *batches]][2:]
        needed = [self.flops(each) for each in batches]
        lengths = [int(each.attention_mask.sum()) for each in batches]
        return {
            "step_seconds": statistics.median(seconds),
            "images_per_second": self.size.batch / statistics.median(seconds),
            "tokens_per_second": statistics.median(n / s for n, s in zip(lengths, seconds, strict=True)),
            "tflops": statistics.median(f / s for f, s in zip(needed, seconds, strict=True)) / 1e12,
            "memory_gib": peak_gib(self.device),
        }

    def flops(self, batch: Batch) -> float:
        lengths = batch.attention_mask.sum(1)
        return step_flops(self.size, self.model, lengths, int((batch.labels != IGNORE_INDEX).sum()))


def plain_loss(model: PrefixLM, batch: Batch) -> Tensor:
    """Return the mean loss as LLaVA's code computes it: padded rows, logits at every position."""
    lm: Any = model.lm.model
    prefix = model.mapper(model.encoder(batch.pixel_values))
    text = lm.get_input_embeddings()(batch.input_ids[:, model.mapper.prefix_length :])
    embeds = torch.cat([prefix.to(text.dtype), text], 1)
    return lm(
        inputs_embeds=embeds, attention_mask=batch.attention_mask.long(), labels=batch.labels, use_cache=False
    ).loss


class Captions:
    """Captions of random images by prefixvlm and by transformers' generate, both from the same prefixes."""

    def __init__(self, steps: Steps, num_images: int = NUM_IMAGES) -> None:
        self.model, self.batch = steps.model, steps.batch(0, num_images, with_captions=False)

    def ours(self, num_beams: int) -> list[list[int]]:
        if num_beams == 1:
            return decoding.greedy(self.model, self.batch, NUM_TOKENS)
        return decoding.beam(self.model, self.batch, NUM_TOKENS, num_beams)

    @torch.no_grad()
    def plain(self, num_beams: int) -> list[list[int]]:
        lm: Any = self.model.lm.model
        prefixes = self.model.prefix_embeds(self.batch.pixel_values).to(self.model.lm.dtype)
        ids = lm.generate(
            inputs_embeds=prefixes, attention_mask=self.batch.attention_mask.long(), do_sample=False,
            num_beams=num_beams, max_new_tokens=NUM_TOKENS, pad_token_id=0,
        )  # fmt: skip
        return [text[: text.index(0)] if 0 in text else text for text in ids.tolist()]

    def measure(self, num_beams: int, rounds: int) -> dict[str, float]:
        """Return the medians of interleaved rounds, and the share of captions that are the same."""
        device, seconds = self.batch.pixel_values.device, {"ours": [], "plain": []}
        texts = {"ours": self.ours(num_beams), "plain": self.plain(num_beams)}  # both are warm now
        sides: dict[str, Callable[[int], Any]] = {"ours": self.ours, "plain": self.plain}
        for _ in range(rounds):
            for name, side in sides.items():
                seconds[name].append(timed(lambda side=side: side(num_beams), device))
        medians = {name: statistics.median(each) for name, each in seconds.items()}
        same = sum(a == b for a, b in zip(*texts.values(), strict=True)) / len(self.batch.input_ids)
        tokens = sum(map(len, texts["ours"]))
        return {
            "seconds": medians["ours"], "plain_seconds": medians["plain"], "same_captions": same,
            "tokens_per_second": tokens / medians["ours"], "ratio": medians["plain"] / medians["ours"],
        }  # fmt: skip


def timed(function: Callable[[], Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def product_tflops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Return the speed of a bare product of two square matrices: what this device can reach."""
    left, right = torch.randn(2, size, size, device=device).to(dtype).unbind()
    seconds = [timed(lambda: left @ right, device) for _ in range(10)][3:]
    return 2 * size**3 / statistics.median(seconds) / 1e12
