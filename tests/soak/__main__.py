"""Run the trials in turn until the time is over: `make soak [MINUTES=20]`. Exit code 1 if something was lost."""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from tests.soak.bench import Bench, LostError
from tests.soak.trials import NEED_ROOT, TRIALS


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="a trial that has begun is ended")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[], help="names of trials, or parts of them")
    given = parser.parse_args()
    chosen = [each for each in TRIALS if not given.only or any(name in each.__name__ for name in given.only)]
    if os.geteuid():
        print("full_disk and full_shared_memory are left out: only root may mount")
        chosen = [each for each in chosen if each not in NEED_ROOT]
    tried, ended, disturbed, lost = Counter(), Counter(), Counter(), []
    temporary = Path(tempfile.mkdtemp(prefix="soak-"))
    bench, begin = Bench(temporary, random.Random(given.seed)), time.monotonic()
    with tqdm(total=given.minutes, bar_format="{desc} {n:.0f}/{total:.0f} min", disable=None) as bar:
        while (minutes := (time.monotonic() - begin) / 60) < given.minutes:
            trial = chosen[tried.total() % len(chosen)]
            name, before = trial.__name__, bench.disturbances
            bar.n = minutes
            bar.set_description(name)
            folder = temporary / f"{tried.total()}-{name}"
            folder.mkdir()
            tried[name] += 1
            try:
                trial(bench, folder)
                ended[name] += 1
            except (LostError, OSError, ValueError, KeyError) as error:
                lost.append(f"{name}: {error}")
                tqdm.write(lost[-1])
            disturbed[name] += bench.disturbances - before
    print(f"{'trial':<28}{'disturbances':>14}{'trials':>8}{'ended well':>12}")
    for name in tried:
        print(f"{name:<28}{disturbed[name]:>14}{tried[name]:>8}{ended[name]:>12}")
    print(f"{ended.total()} of {tried.total()}: {'something was lost' if lost else 'nothing lost'}", *lost, sep="\n")
    if not lost:
        shutil.rmtree(temporary)
    sys.exit(bool(lost))


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    main()
