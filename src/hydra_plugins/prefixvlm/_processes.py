"""Runs jobs as processes, several at a time, with their share of the GPUs and in their own process groups."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from prefixvlm.sweep.job_files import LOG, last_error, last_lines

GUARD = Path(__file__).with_name("_guard.py")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # SIGHUP: the terminal of the sweep was closed
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit codes of a run that a signal stopped
POLL, GRACE = 0.05, 60.0  # seconds


@dataclass
class Job:
    """A job and its process.

    num_gpus: the number of GPUs it gets; None for an equal share. info: data for the caller.
    stopped: whether a signal stopped it before its end.
    """

    number: int
    command: Sequence[str]
    folder: Path
    label: str
    num_gpus: int | None
    info: Any = None
    gpus: list[str] = field(default_factory=list)
    started: float = 0.0
    stopped: bool = False
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / LOG

    def start(self, env: dict[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), *self.command], stdin=subprocess.PIPE, stdout=log, stderr=log,
                env=env, start_new_session=True,
            )  # fmt: skip

    def signal(self, number: int) -> None:
        """Send a signal to the job, or SIGKILL to its whole process group."""
        assert self.process
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def has_ended(self) -> bool:
        """Return whether the job has ended; if so, kill what is left of its process group."""
        assert self.process
        assert self.process.stdin
        if self.process.poll() is None:
            return False
        self.signal(signal.SIGKILL)
        self.process.stdin.close()
        return True


def run(jobs: Iterator[Job], n_jobs: int, on_end: Callable[[Job, int, float], None], gpus: Sequence[str]) -> int:
    """Run all jobs, at most n_jobs at a time. A job is taken from the iterator when it can start.

    on_end: called with each job, its exit code and its duration in seconds.
    Returns 0, or the signal that stopped the sweep. It is forwarded to the jobs, which save and stop; a second signal
    kills them.
    """
    running: list[Job] = []
    with _forwarded(running) as received:
        try:
            while True:
                while not received and len(running) < n_jobs and (job := next(jobs, None)):
                    num_gpus = max(len(gpus) // n_jobs, 1) if job.num_gpus is None else job.num_gpus
                    job.gpus = least_used(gpus, [other.gpus for other in running], num_gpus)
                    job.start(environment(job.gpus, n_jobs))
                    running.append(job)
                    for number in received:  # while it was being started
                        job.signal(number)
                if not running:
                    return received[0] if received else 0
                time.sleep(POLL)
                for job in [job for job in running if job.has_ended()]:
                    running.remove(job)
                    assert job.process
                    job.stopped = job.process.returncode in STOPPED or bool(received and job.process.returncode)
                    on_end(job, job.process.returncode, time.monotonic() - job.started)
        finally:
            _stop(running)


@contextlib.contextmanager
def _forwarded(running: list[Job]) -> Iterator[list[int]]:
    """Forward signals of this process to the jobs, and record them in the yielded list."""
    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for job in running:  # a run has no handler of SIGHUP that saves
            job.signal(signal.SIGKILL if len(received) > 1 else signal.SIGTERM if number == signal.SIGHUP else number)

    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(running: list[Job]) -> None:
    """Stop the jobs after an error of the sweep itself, and kill those that do not stop in time."""
    for job in running:
        job.signal(signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while running and time.monotonic() < deadline:
        running[:] = [job for job in running if not job.has_ended()]
        time.sleep(POLL)
    for job in running:
        job.signal(signal.SIGKILL)


def visible_gpus() -> list[str]:
    """Return the names in CUDA_VISIBLE_DEVICES, or else the numbers of all GPUs."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    import torch  # here, because Hydra imports the plugins in every program

    return [str(number) for number in range(torch.cuda.device_count())]


def least_used(gpus: Sequence[str], used: Sequence[Sequence[str]], num_gpus: int) -> list[str]:
    """Return the GPUs for a job: those that the fewest running jobs use, in the order of `gpus`."""
    counts = Counter(name for names in used for name in names)
    return sorted(sorted(gpus, key=lambda name: counts[name])[:num_gpus], key=list(gpus).index)


def environment(gpus: Sequence[str], n_jobs: int) -> dict[str, str]:
    """Return the environment of a job, with its GPUs and its share of the cores."""
    from prefixvlm import errors

    env = errors.environment()
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    if n_jobs > 1:
        env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n_jobs)))
    return env


def failure(code: int, log: Path) -> str:
    """Describe in a line how a job failed: its exit code and the last error, or else the last line, of its log."""
    if code == 137 or code == -signal.SIGKILL:
        return "was killed (out of memory?)"
    lines = last_lines(log)
    reason = last_error(lines) or (lines or ["no output"])[-1]
    return f"failed with exit code {code}: {reason[:300]}"
