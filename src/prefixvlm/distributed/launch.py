"""Starts a run as one process per device, watches the processes and forwards signals to them."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from prefixvlm.distributed.signals import SIGNALS
from prefixvlm.distributed.world import rank, single_process_environ, started_world

GRACE = 5.0  # seconds for the other processes to end after one has failed
PARENT = "PREFIXVLM_PARENT"  # environment variable: the process id of the launcher


def run_sweep_once() -> None:
    """Under torchrun, run a sweep in its first process only; each job then starts as many processes.

    Raises ValueError on several machines, which a job could not start processes on.
    """
    # In every process, Hydra would run the whole sweep, and samplers would propose other jobs in each.
    if not {"-m", "--multirun"} & set(sys.argv[1:]) or "LOCAL_WORLD_SIZE" not in os.environ:
        return
    world = started_world()
    if world["num_nodes"] > 1:
        raise ValueError(
            f"a sweep under torchrun on {world['num_nodes']} machines is not possible; start each job with torchrun, "
            "or set hydra/launcher to one that reaches other machines"
        )
    if rank() > 0:
        sys.exit(0)
    overrides = (index for index, word in enumerate(sys.argv) if index and "=" in word and not word.startswith("-"))
    # Before the first override: argparse accepts them only in one block.
    sys.argv.insert(next(overrides, len(sys.argv)), f"trainer.devices={world['devices']}")
    for name in os.environ.keys() - single_process_environ().keys():
        del os.environ[name]


def launch(count: int, logs: str | Path, *overrides: str) -> int:
    """Run this command, with overrides, as `count` processes and wait for them; if one fails, the others are ended.

    The output of the processes other than the first is written to logs/rankN.log.
    Returns 0, or the exit code of the first process that failed (128 + the signal that ended it).
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *sys.argv, *overrides]
    shared: dict[str, Any] = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "NODE_RANK": 0, PARENT: os.getpid()}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    files = [Path(logs) / f"rank{number}.log" for number in range(count)]
    processes: list[subprocess.Popen[bytes]] = []

    def forward(signum: int, frame: object) -> None:
        for process in processes:
            process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in SIGNALS}
    try:
        for number, file in enumerate(files):
            variables = shared | {"RANK": number, "LOCAL_RANK": number}
            env = single_process_environ() | {name: str(value) for name, value in variables.items()}
            with file.open("ab") if number else nullcontext() as log:
                # In its own process group, or a terminal's Ctrl-C would reach it a second time.
                processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, process_group=0))
        return _wait(processes, files)
    finally:
        for process in processes:
            process.kill()
            process.wait()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _wait(processes: Sequence[subprocess.Popen[bytes]], files: Sequence[Path]) -> int:
    failed: int | None = None
    deadline = math.inf
    while (failed is None or time.monotonic() < deadline) and any(process.poll() is None for process in processes):
        failed = _first_failed(processes) if failed is None else failed
        deadline = min(deadline, time.monotonic() + GRACE) if failed is not None else deadline
        time.sleep(0.05)
    failed = _first_failed(processes) if failed is None else failed
    if failed is None:
        return 0
    code = processes[failed].returncode
    if failed:  # the output of the first process is on the terminal already
        lines = files[failed].read_text(errors="replace").strip().splitlines()
        print(
            f"process {failed} of {len(processes)} failed with exit code {code}; see {files[failed]}", file=sys.stderr
        )
        print(*lines[-5:], sep="\n", file=sys.stderr)
    return code if code > 0 else 128 - code


def _first_failed(processes: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """Return the index of a failed process, if any; one ended by a signal first, for it makes the others fail."""
    failed = [number for number, process in enumerate(processes) if process.returncode]
    return min(failed, key=lambda number: processes[number].returncode) if failed else None


def is_launched() -> bool:
    """Return whether `launch` in another process has started this one."""
    return PARENT in os.environ


def exit_with_parent() -> None:
    """Exit when the launcher of this process ends: a launcher that was killed cannot end its processes."""
    if parent := os.environ.get(PARENT):
        threading.Thread(target=_exit_with, args=(int(parent),), daemon=True).start()


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
