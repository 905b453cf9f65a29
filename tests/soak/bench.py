"""Commands that a trial starts, disturbs and runs again, and what it compares at the end."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.callbacks.test_last_checkpoint import equal
from tests.test_end_to_end import ROOT, easy_shards, tiny_clip, tiny_gpt2
from tests.test_runs import end

# Before torch's own traceback, where a worker is killed that its loader is about to end: it changes nothing.
LOADER_END = "Exception ignored in: <function _MultiProcessingDataLoaderIter.__del__"
SECONDS = 300  # after which a command hangs


class LostError(Exception):
    """Something was lost, left over, or said with a traceback."""


@dataclass
class Bench:
    """Small parts in a folder. disturbances counts kills, faults and refusals of all trials."""

    folder: Path
    rng: random.Random
    disturbances: int = 0
    wholes: dict[tuple[str, ...], tuple[dict, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shards = easy_shards(self.folder)
        self.parts = [
            f"encoder.model_name=local-dir:{tiny_clip(self.folder / 'clip')}", "lm=gpt2",
            f"lm.name={tiny_gpt2(self.folder / 'gpt2')}", "lm.dtype=float32", "mapper=transformer",
            "mapper.num_layers=1", "mapper.prefix_length=4", "module.max_target_length=40", "data.batch_size=4",
            "data.limit_val_predictions=0", "trainer.max_epochs=3", "trainer.val_check_interval=3",
            "trainer.deterministic=true", "callbacks.last.every_n_steps=2", "logger=csv", "test=false",
        ]  # fmt: skip

    def train(self, run: Path, *options: str) -> list[str]:
        """Return the command of a training in a folder."""
        shards = [] if any(each.startswith("data.shards=") for each in options) else [f"data.shards={self.shards}"]
        return [sys.executable, "train.py", *self.parts, *shards, *options, f"hydra.run.dir={run}"]

    def whole(self, *options: str) -> tuple[dict, float]:
        """Return the end of an undisturbed training with these options, and its seconds."""
        if options not in self.wholes:
            run, began = self.folder / f"whole{len(self.wholes)}", time.monotonic()
            finish(self.train(run, *options), self.folder / "log")
            self.wholes[options] = end(run), time.monotonic() - began
        return self.wholes[options]

    def compare(self, run: Path, *options: str) -> None:
        """Raise LostError unless the training ended with the bits of an undisturbed one."""
        if not equal(end(run), self.whole(*options)[0]):
            raise LostError(f"{run} has not ended as an undisturbed training")
        if left := list(run.rglob("*.tmp")):
            raise LostError(f"{left[0]} is left")

    def kill(self, command: Sequence[object], log: Path, seconds: float, whom: str = "parent") -> None:
        """Start a command and kill a process of it at a random moment within so many seconds.

        whom: the "parent", the "group", or "any" of its processes. If the command ends before, nothing is killed.
        """
        process = start(command, log)
        try:
            process.wait(self.rng.uniform(0.2, seconds))
        except subprocess.TimeoutExpired:
            self.disturbances += 1
            group = processes(process.pid)
            victim = process.pid if whom != "any" else self.rng.choice(group or [process.pid])
            (os.killpg if whom == "group" else os.kill)(victim, signal.SIGKILL)
        wait(process, log)


def start(command: Sequence[object], log: Path, **env: str) -> subprocess.Popen:
    with log.open("ab") as file:
        environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""} | env
        return subprocess.Popen(
            [str(each) for each in command], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


def wait(process: subprocess.Popen, log: Path) -> int:
    """Return the exit code. Raises LostError if the command hangs, prints a traceback or leaves a process."""
    try:
        code = process.wait(SECONDS)
        deadline = time.monotonic() + 15
        while left := processes(process.pid):
            if time.monotonic() > deadline:
                raise LostError(f"processes {left} are left; see {log}")
            time.sleep(0.05)
    except subprocess.TimeoutExpired:
        raise LostError(f"it takes more than {SECONDS} s; see {log}") from None
    finally:
        for pid in processes(process.pid):
            os.kill(pid, signal.SIGKILL)
    text = log.read_text(errors="replace")
    if text.count("Traceback") > text.count(LOADER_END):
        raise LostError(f"a traceback; see {log}")
    return code


def finish(command: Sequence[object], log: Path, **env: str) -> None:
    """Run a command to its end. Raises LostError if it fails."""
    if code := wait(start(command, log, **env), log):
        raise LostError(f"exit code {code}; see {log}")


def processes(session: int) -> list[int]:
    """Return the living processes of a session, which holds all groups that a command has made."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found
