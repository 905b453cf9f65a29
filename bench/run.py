"""Training steps and captioning of prefixvlm and of a plain ClipCap-style loop, in one process.

Writes summary.json and prints a table. Both sides have the same random weights (a GPT-2-small-size language model and
ClipCap's mappers) and compute the same function of the same captions, which is checked. Features are random: neither
encoder nor data loading is timed.
"""

import argparse
import json
import statistics
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from captioning import Captioning
from measure import Clock, gemms_of, machine, time_gemm
from sides import MAPPERS, QUICK, Sizes, batch_of, random_lm
from step_memory import SIDES, memory_of
from steps import LONGEST, Steps
from tqdm import tqdm

from prefixvlm.precision import fast_dtype


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
        for side in SIDES:
            bar.set_postfix_str(f"memory of {side}")
            memory = memory_of(side, quick)
            summary["peak_memory_mib"][side] = memory and memory / 2**20
            bar.update()
        for each in steps.values():
            each.warm_up()
            bar.update()
        # Interleaved, so that a machine that is busy for a while is busy for both sides.
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


def summarize(clock: Clock) -> dict[str, Any]:
    """Return seconds of each job, and the ratios of the baseline's to ours."""
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
            # Batches sorted by length differ in size, so an epoch takes their mean and not their median.
            ratios[job] = baseline / time["mean" if job.endswith("_by_length") else "median"]
    return {"times": times, "ratios": ratios}


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
    args = parser.parse_args()
    sizes = QUICK if args.quick else Sizes()
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
