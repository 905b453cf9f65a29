"""Peak memory of a training step, measured in a process of its own.

`python bench/step_memory.py baseline|ours [--quick]` prints bytes. Linux only.
"""

import argparse
import random
import subprocess
import sys
from pathlib import Path

import torch
from baseline import ClipCap
from measure import extra_memory
from sides import FEATURE_WIDTH, QUICK, Sizes, batch_of, our_model, random_captions, random_lm, random_mapper
from steps import adamw, baseline_step, our_step

SIDES = ("baseline", "ours")


def memory_of(side: str, quick: bool) -> int | None:
    """Return peak_memory of a side, measured in a fresh process; None on other systems than Linux."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, side, *(["--quick"] if quick else [])]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def peak_memory(side: str, sizes: Sizes) -> int:
    """Return the bytes that two steps with the transformer mapper take on top of the loaded model."""
    lm, mapper = random_lm(sizes), random_mapper("transformer", sizes)
    rng = random.Random(0)
    features, captions = torch.randn(sizes.batch, 1, FEATURE_WIDTH), random_captions(rng, sizes.batch, sizes.vocabulary)
    model = ClipCap(mapper, lm) if side == "baseline" else our_model(mapper, lm)
    optimizer = adamw(model)

    def two_steps() -> None:  # the first step creates AdamW's state
        for _ in range(2):
            if side == "baseline":
                baseline_step(model, optimizer, features, captions)
            else:
                our_step(model, optimizer, batch_of(features, captions))

    return extra_memory(two_steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("--quick", action="store_true", help="with a small language model")
    args = parser.parse_args()
    print(peak_memory(args.side, QUICK if args.quick else Sizes()))
