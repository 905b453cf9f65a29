"""Kill a run at random moments, resume it, and compare its end with that of an uninterrupted run.

`python bench/kills.py [--kills 20] [train.py options] ...`: an uninterrupted run of the options, then the same run in
another folder under kill -9 at random moments. The last checkpoints are compared bit for bit.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load

NAMES = ("state_dict", "optimizer_states", "lr_schedulers", "ShardDataModule", "global_step")


def end(folder: Path) -> dict[str, Any]:
    """Return what a resumed run depends on, without paths and Lightning's counters."""
    checkpoint = load(folder / "checkpoints" / "last.ckpt")
    callbacks = checkpoint["callbacks"]
    scores = [state["best_model_score"] for state in callbacks.values() if "best_model_score" in state]
    ours = {name: value for name, value in checkpoint[KEY].items() if name not in ("config", "provenance")}
    losses = [each for each in callbacks["History"]["records"] if each["name"].endswith("loss")]
    return {name: checkpoint[name] for name in NAMES} | {"ours": ours, "best": scores, "losses": losses}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def start(options: list[str], folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "train.py", "test=false", *options, f"hydra.run.dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    errors = process.communicate()[1].decode()
    if process.returncode:
        raise SystemExit(f"train.py failed:\n{errors[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments, options = parser.parse_known_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, folder = Path(temporary, "whole"), Path(temporary, "killed")
        finish(start(options, whole))
        last, steps, damaged = folder / "checkpoints" / "last.ckpt", [], 0
        while len(steps) < arguments.kills:
            # Only after a new checkpoint: a run that is killed before would repeat the same steps for ever.
            process, before = start(options, folder), last.stat().st_mtime_ns if last.is_file() else 0
            while process.poll() is None and not (last.is_file() and last.stat().st_mtime_ns > before):
                time.sleep(0.005)
            time.sleep(rng.random() * 0.3)  # at times within the write of the next checkpoint
            if process.poll() is not None:
                break  # the run was over before all the kills
            process.send_signal(signal.SIGKILL)
            damaged += b"damaged" in process.communicate()[1]
            steps.append(load(last)["global_step"])
            print(f"kill {len(steps)} after step {steps[-1]}", flush=True)
        finish(start(options, folder))
        same = equal(end(folder), end(whole))
        print(f"{len(steps)} kills, {damaged} damaged checkpoints: {'the same bits' if same else 'DIFFERENT'}")
        sys.exit(not same)


if __name__ == "__main__":
    main()
