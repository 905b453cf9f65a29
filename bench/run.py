"""Our training step and captioning beside a plain ClipCap-style loop's, in one process: a table and summary.json.

Both sides have the same random weights (a GPT-2-small-size language model, ClipCap's mappers) and do the same
mathematics on the same captions, which is checked. Features are random: neither encoder nor data loading is timed.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
from copy import deepcopy
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from baseline import ClipCap
from measure import Clock, extra_memory, gemms_of, machine, time_gemm
from sides import (
    FEATURE_WIDTH,
    MAPPERS,
    QUICK,
    Sizes,
    batch_of,
    caption_lengths,
    our_model,
    random_captions,
    random_lm,
    random_mapper,
)
from torch import Tensor
from tqdm import tqdm
from transformers import GPT2LMHeadModel

from prefixvlm.batch import Batch
from prefixvlm.model import decoding
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.precision import fast_dtype

NUM_BEAMS = 5
LONGEST = max(caption_lengths())


def our_step(model: PrefixLM, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    model.zero_grad()
    model(batch).mean().backward()
    optimizer.step()


def baseline_step(
    model: ClipCap, optimizer: torch.optim.Optimizer, features: Tensor, captions: list[list[int]]
) -> None:
    model.zero_grad()
    model.loss(features, captions, LONGEST).backward()
    optimizer.step()


def adamw(model: PrefixLM | ClipCap) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.mapper.parameters(), lr=2e-5)


class Steps:
    """One training step of either side with one mapper, and of ours in its variants."""

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
        """The difference of the two sides' losses."""
        features, captions = self.data()
        ours = self.ours["fp32"](batch_of(features, captions)).mean()
        difference = abs(float(ours - self.baseline.loss(features, captions, LONGEST)))
        assert difference < 1e-4, f"the losses of the two sides differ by {difference}"
        return difference

    def warm_up(self) -> None:
        features, captions = (part[:4] for part in self.data())
        baseline_step(self.baseline, self.optimizers["baseline"], features, captions)
        for key, model in self.ours.items():
            our_step(model, self.optimizers[key], batch_of(features, captions))

    def by_length(self, quantile: float) -> Batch:
        """One batch of a pool sorted by length: of its shortest captions at 0, of its longest towards 1."""
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
                clock.time(f"ours {named(f'step_{self.name}', key)}{suffix}", call)


class Captioning:
    """Greedy and beam search of either side, each caption as long as a real one is on average.

    A random language model does not say EOS where a real one would, so that is where all captions stop.
    """

    def __init__(self, sizes: Sizes, ours: dict[str, PrefixLM], baseline: ClipCap) -> None:
        self.sizes, self.ours, self.baseline = sizes, ours, baseline
        self.num_tokens = round(statistics.mean(caption_lengths()))

    def features(self) -> Tensor:
        return torch.randn(self.sizes.images, 1, FEATURE_WIDTH)

    def greedy(self, model: PrefixLM, features: Tensor) -> list[list[int]]:
        return decoding.greedy(model, batch_of(features, [[]] * len(features)), self.num_tokens)

    def beam(self, model: PrefixLM, features: Tensor) -> list[list[int]]:
        return decoding.beam(model, batch_of(features, [[]] * len(features)), self.num_tokens, NUM_BEAMS)

    def check(self) -> int:
        """How many captions of each kind were compared with the baseline's; all are identical."""
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
            clock.time(f"ours {named('greedy', key)}", partial(self.greedy, model, features))
        beam = partial(self.baseline.beam, num_tokens=self.num_tokens, num_beams=NUM_BEAMS)
        clock.time("baseline beam5", lambda: [beam(one) for one in some], scale)
        for key, model in self.ours.items():
            clock.time(f"ours {named('beam5', key)}", partial(self.beam, model, features))


def named(name: str, key: str) -> str:
    return name if key == "fp32" else f"{name}_{key}"


def peak_memory(side: str, sizes: Sizes) -> int:
    """Bytes that two training steps with the transformer mapper take on top of the loaded model; in a fresh process."""
    lm, mapper = random_lm(sizes), random_mapper("transformer", sizes)
    rng = random.Random(0)
    features, captions = torch.randn(sizes.batch, 1, FEATURE_WIDTH), random_captions(rng, sizes.batch, sizes.vocabulary)
    model = ClipCap(mapper, lm) if side == "baseline" else our_model(mapper, lm)
    optimizer = adamw(model)

    def two_steps() -> None:
        for _ in range(2):
            if side == "baseline":
                baseline_step(model, optimizer, features, captions)
            else:
                our_step(model, optimizer, batch_of(features, captions))

    return extra_memory(two_steps)


def memory_of(side: str, quick: bool) -> int | None:
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--memory", side, *(["--quick"] if quick else [])]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def summarize(clock: Clock) -> dict[str, Any]:
    """Seconds of each, and how many times ours goes into the baseline's; by length, ours is the mean of its batches."""
    times = {
        name: {
            "median": statistics.median(seconds),
            "quartiles": statistics.quantiles(seconds, n=4, method="inclusive")[::2],
            "mean": statistics.mean(seconds),
            "seconds": seconds,
        }
        for name, seconds in clock.seconds.items()
        if not name.startswith("gemm")
    }
    ratios = {}
    for name, time in times.items():
        if name.startswith("ours "):
            job = name.removeprefix("ours ")
            baseline = times[f"baseline {job.removesuffix('_by_length').removesuffix('_bf16')}"]["median"]
            ratios[job] = baseline / time["mean" if job.endswith("_by_length") else "median"]
    return {"times": times, "ratios": ratios}


def bench(sizes: Sizes, bf16: bool, quick: bool) -> dict[str, Any]:
    lms = {"baseline": random_lm(sizes), "fp32": random_lm(sizes)}
    if bf16:
        lms["bf16"] = deepcopy(lms["fp32"]).to(torch.bfloat16)
    steps = {name: Steps(name, sizes, lms) for name in MAPPERS}
    captioning = Captioning(sizes, steps["transformer"].ours, steps["transformer"].baseline)
    summary: dict[str, Any] = {"machine": machine(), "sizes": asdict(sizes) | {"longest_caption": LONGEST}}
    sample = {name: each.data() for name, each in steps.items()}
    gemms = {name: gemms_of(each.ours["fp32"], batch_of(*sample[name])) for name, each in steps.items()}
    shapes = sorted(set().union(*gemms.values()))
    with tqdm(total=sizes.rounds * (len(shapes) + len(MAPPERS) * (1 + 2 * (1 + bf16)) + 2 * (2 + bf16)) + 5) as bar:
        clock = Clock(bar)
        bar.set_postfix_str("both sides give the same")
        summary["loss_difference"] = {name: each.check() for name, each in steps.items()}
        summary["identical_captions"] = captioning.check()
        bar.update()
        summary["peak_memory_mib"] = {}
        for side in ("baseline", "ours"):
            bar.set_postfix_str(f"memory of {side}")
            memory = memory_of(side, quick)
            summary["peak_memory_mib"][side] = memory and memory / 2**20
            bar.update()
        for each in steps.values():
            each.warm_up()
            bar.update()
        for number in range(sizes.rounds):
            for each in steps.values():
                each.round(clock, (number + 0.5) / sizes.rounds)
            captioning.round(clock)
            for shape in shapes:
                clock.time(f"gemm {shape}", time_gemm(shape))
    summary |= summarize(clock)
    summary["gemm_share"] = {}
    for name, counts in gemms.items():
        needed = sum(count * clock.median(f"gemm {shape}") for shape, count in counts.items())
        summary["gemm_share"][f"step_{name}"] = needed / clock.median(f"ours step_{name}")
    return summary


def table(summary: dict[str, Any]) -> str:
    lines = [f"{'':32}{'baseline s':>12}{'ours s':>10}{'times':>8}"]
    for job, ratio in summary["ratios"].items():
        ours = summary["times"][f"ours {job}"]["mean" if job.endswith("_by_length") else "median"]
        lines.append(f"{job:32}{ratio * ours:>12.3f}{ours:>10.3f}{ratio:>8.2f}")
    memory = summary["peak_memory_mib"]
    if memory["ours"]:
        ratio = memory["baseline"] / memory["ours"]
        lines.append(f"{'memory of a step, MiB':32}{memory['baseline']:>12.0f}{memory['ours']:>10.0f}{ratio:>8.2f}")
    for job, share in summary["gemm_share"].items():
        lines.append(f"{job}: {share:.0%} of our time is what its bare matrix products take")
    return "\n".join([*lines, *summary["notes"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small language model and 2 rounds: does it run at all?")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench"), help="folder of summary.json (%(default)s)")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds ({Sizes.rounds}; {QUICK.rounds} with --quick)")
    parser.add_argument("--bf16", action="store_true", help="time the bf16 variants even where the CPU is slow at bf16")
    parser.add_argument("--memory", choices=["baseline", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
    if args.memory:
        print(peak_memory(args.memory, sizes))
        return
    if args.rounds is not None:
        if args.rounds < 2:
            parser.error(f"--rounds is {args.rounds}, but quartiles need at least 2")
        sizes = replace(sizes, rounds=args.rounds)
    bf16 = args.bf16 or fast_dtype() == torch.bfloat16
    summary = bench(sizes, bf16, args.quick)
    summary["notes"] = [
        f"Each time: the median of {sizes.rounds} rounds, both sides in turn; by_length: the mean over lengths.",
        f"Random features, no encoder; captions as long as real ones ({Path('bench/caption_lengths.tsv')}).",
        f"Captioning: {sizes.images} images; the baseline's time for {sizes.baseline_images}, scaled.",
    ]
    if not bf16:
        summary["notes"].append("bf16 skipped: this CPU has no fast bf16 (AVX512-BF16 or AMX); --bf16 times it anyway.")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(table(summary))
    print(f"Summary: {args.out / 'summary.json'}")


if __name__ == "__main__":
    main()
