"""The rows of beside.py: jobs of both sides, which are checked to give equal losses or texts."""

import random
import statistics
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from clipcap_repository import ClipCapRepository, copy_mapper, longest, loss_of, padded, step
from measure import Clock, Gemm, flops_of, gemms_during, gemms_of, time_gemm
from sides import (
    FEATURE_WIDTH,
    MAPPERS,
    Sizes,
    batch_of,
    caption_lengths,
    our_model,
    random_captions,
    random_lm,
    random_mapper,
)
from steps import adamw, our_step
from torch import Tensor

from prefixvlm.batch import Batch
from prefixvlm.model import decoding
from prefixvlm.model.clipcap_beam import clipcap_beam
from prefixvlm.model.prefix_lm import PrefixLM

BEAMS = 5  # of ClipCap's released code
GOALS = {
    "step transformer": 3.5, "step mlp": 4.5, "clipcap beam 5": 20, "clipcap beam 5, 1 image": 4, "clipcap greedy": 30,
    "generate greedy": 1.5, "generate beam 5": 1.5,
}  # fmt: skip
Job = Callable[[], Any]


class Row:
    """A line of the table: the other side, which may do a share of the work only, and ours."""

    def __init__(self, name: str, other: Job, ours: Job, gemms: Counter[Gemm], scale: float = 1.0) -> None:
        self.name, self.other, self.ours, self.gemms, self.scale = name, other, ours, gemms, scale

    def round(self, clock: Clock) -> None:
        clock.time(f"other {self.name}", self.other, self.scale)
        clock.time(f"ours {self.name}", self.ours)
        for gemm in self.gemms:
            clock.time(f"gemm {self.name} {gemm}", time_gemm(gemm))

    def result(self, clock: Clock) -> dict[str, Any]:
        other, ours = (clock.seconds[f"{side} {self.name}"] for side in ("other", "ours"))
        bare = sum(count * clock.median(f"gemm {self.name} {gemm}") for gemm, count in self.gemms.items())
        ratios = [a / b for a, b in zip(other, ours, strict=True)]
        gflops = flops_of(self.gemms) / 1e9
        return {
            "other_s": statistics.median(other), "ours_s": statistics.median(ours), "ratio": statistics.median(ratios),
            "ratios": ratios, "goal": GOALS.get(self.name), "gflops": gflops, "gflops_per_s_bare": gflops / bare,
            "share_of_bare_products": bare / statistics.median(ours),
        }  # fmt: skip


def step_rows(repository: ClipCapRepository, sizes: Sizes) -> list[Row]:
    """Return a training step with each mapper. Asserts that the losses are equal."""
    rng, rows = random.Random(0), []
    for kind in MAPPERS:
        theirs = repository.model(kind, sizes)
        ours = our_model(copy_mapper(theirs, random_mapper(kind, sizes)), random_lm(sizes))
        # ClipCap has no EOS: its captions end with a token that is supervised as any other, and 0 is padding.
        captions = [[token or 1 for token in each] for each in random_captions(rng, sizes.batch, sizes.vocabulary)]
        features = torch.randn(len(captions), FEATURE_WIDTH)
        tokens, mask = padded(captions, longest(caption_lengths()))
        batch = batch_of(features[:, None], captions)
        with torch.no_grad():
            found, expected = float(ours(batch).mean()), float(loss_of(theirs, tokens, features, mask))
        assert abs(found - expected) < 1e-4, f"the losses of the two sides are {found} and {expected}"
        other = partial(step, theirs, torch.optim.AdamW(theirs.parameters(), lr=2e-5), tokens, features, mask)
        own = partial(our_step, ours, adamw(ours), batch)
        for warm_up in (other, own):
            warm_up()
        rows.append(Row(f"step {kind}", other, own, gemms_of(ours, batch)))
    return rows


def text_rows(repository: ClipCapRepository, sizes: Sizes) -> list[Row]:
    """Return greedy decoding and beam search beside ClipCap's, of many images and of one. Asserts equal texts."""
    theirs = repository.model("transformer", sizes).eval()
    ours = our_model(copy_mapper(theirs, random_mapper("transformer", sizes)), random_lm(sizes)).eval()
    features, length = torch.randn(sizes.images, FEATURE_WIDTH), round(statistics.mean(caption_lengths()))
    some = features[: sizes.baseline_images].split(1)
    batch, one = images_of(features), images_of(features[:1])

    def each(search: Callable[..., Any], *options: int) -> list[list[int]]:
        with torch.no_grad():
            return [search(theirs, image, length, *options) for image in some]

    searches: list[tuple[str, Callable[[Batch], Any], Job]] = [
        ("clipcap greedy", partial(_greedy, ours, length), partial(each, repository.greedy)),
        ("clipcap beam 5", partial(_clipcap_beam, ours, length), partial(each, repository.beam, BEAMS)),
    ]
    rows = []
    for name, search, other in searches:
        assert search(batch)[: len(some)] == other(), f"{name}: the texts of the two sides differ"
        job = partial(search, batch)
        rows.append(Row(name, other, job, gemms_during(ours, job), sizes.images / len(some)))
        job = partial(search, one)
        rows.append(Row(f"{name}, 1 image", other, job, gemms_during(ours, job), 1 / len(some)))
    return rows


def generate_rows(sizes: Sizes) -> list[Row]:
    """Return batches of texts beside generate of transformers, with its cache. Asserts equal texts."""
    ours = our_model(random_mapper("transformer", sizes), random_lm(sizes)).eval()
    language_model: Any = random_lm(sizes).eval()
    length = round(statistics.mean(caption_lengths()))
    rows = []
    for number, suffix in ((sizes.images, ""), (1, ", 1 image")):
        features = torch.randn(number, FEATURE_WIDTH)
        batch = images_of(features)

        @torch.no_grad()
        def generate(beams: int, features: Tensor = features) -> list[list[int]]:
            embeds = ours.mapper(features[:, None])
            ids = language_model.generate(
                inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
                max_new_tokens=length, num_beams=beams, do_sample=False, pad_token_id=0, eos_token_id=0,
            )  # fmt: skip
            return [each[: each.index(0)] if 0 in each else each for each in ids.tolist()]

        for name, search, beams in (("greedy", _greedy, 1), (f"beam {BEAMS}", _beam, BEAMS)):
            job = partial(search, ours, length, batch)
            assert job() == generate(beams), f"generate {name}{suffix}: the texts of the two sides differ"
            gemms = gemms_during(ours, job)
            rows.append(Row(f"generate {name}{suffix}", partial(generate, beams), job, gemms))
    return rows


def images_of(features: Tensor) -> Batch:
    return batch_of(features[:, None], [[]] * len(features))


def _greedy(model: PrefixLM, length: int, batch: Batch) -> list[list[int]]:
    return decoding.greedy(model, batch, length)


def _beam(model: PrefixLM, length: int, batch: Batch) -> list[list[int]]:
    return decoding.beam(model, batch, length, BEAMS)


def _clipcap_beam(model: PrefixLM, length: int, batch: Batch) -> list[list[int]]:
    return clipcap_beam(model, batch, length, BEAMS)
