"""The command line of a run goes in; one process a device is started and watched; the exit code of all comes out."""

import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import MutableMapping, Sequence
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.plugins.environments import SLURMEnvironment

from prefixvlm.errors import environment

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
GRACE = 5.0  # seconds that the other processes have when one has failed
PARENT = "PREFIXVLM_PARENT"  # the process with which this one ends
SHARED = "prefixvlm/started"
ADDRESS = {
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "NODE_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
}


def rank() -> int:
    """Of this process among those that another launcher, or this one, has started; 0 if it is alone."""
    if SLURMEnvironment.detect():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("RANK", 0))


def num_processes(trainer: MutableMapping[str, Any]) -> int:
    """How many are to be started here, by trainer.devices; 1 where torchrun, srun or `launch` has started all.

    trainer.devices and trainer.num_nodes then become what was started. Raises ValueError if that is not what they ask.
    """
    asked = num_devices(str(trainer.get("accelerator", "auto")), trainer.get("devices", 1))
    given = given_world()
    if given and asked not in (1, given["devices"]):
        raise ValueError(
            f"trainer.devices asks for {asked} processes a machine, but {given['devices']} were started; "
            "leave trainer.devices out"
        )
    if not given and int(trainer.get("num_nodes", 1)) > 1:
        raise ValueError("trainer.num_nodes is for those who start a process a device: use torchrun or srun")
    if not given:
        return asked
    trainer["num_nodes"] = given["num_nodes"]
    if asked != given["devices"]:  # else it may be a list, which says which they are
        trainer["devices"] = given["devices"]
    return 1


def num_devices(accelerator: str, devices: Any) -> int:
    """How many processes trainer.devices asks for on this machine."""
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        everything = devices in ("auto", -1, "-1")
        return torch.cuda.device_count() if everything else len(CUDAAccelerator.parse_devices(devices) or ())
    return int(devices) if str(devices).isdecimal() else 1


def given_world() -> dict[str, int]:
    """The devices a machine, and the machines, of those who started this process; empty if nobody did."""
    if SLURMEnvironment.detect():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return {"devices": int(os.environ["SLURM_NTASKS"]) // nodes, "num_nodes": nodes}
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return {}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}


def run_id() -> str:
    """What the run's folder is called: when it started, and the same on every rank; a SLURM job's own id.

    torchrun's processes agree through the store that it keeps for them: their clocks may differ.
    """
    if SLURMEnvironment.detect():
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        return f"slurm-{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else f"slurm-{os.environ['SLURM_JOB_ID']}"
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return now
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.TCPStore(address, port, is_master=False).compare_set(SHARED, "", now).decode()


def run_sweep_once() -> None:
    """Under torchrun a sweep runs once: the first process goes on alone, and each job starts as many processes.

    Raises ValueError on several machines, where a job could not.
    """
    if not {"-m", "--multirun"} & set(sys.argv[1:]) or "LOCAL_WORLD_SIZE" not in os.environ:
        return
    world = given_world()
    if world["num_nodes"] > 1:
        raise ValueError(
            f"a sweep under torchrun on {world['num_nodes']} machines is not possible; start each job with torchrun, "
            "or set hydra/launcher to one that reaches other machines"
        )
    if rank() > 0:
        sys.exit(0)
    overrides = (place for place, word in enumerate(sys.argv) if place and "=" in word and not word.startswith("-"))
    sys.argv.insert(
        next(overrides, len(sys.argv)), f"trainer.devices={world['devices']}"
    )  # argparse wants them together
    for name in os.environ.keys() - single_process_environ().keys():
        del os.environ[name]


def single_process_environ() -> dict[str, str]:
    """The environment without what makes a process one of several."""
    return {
        name: value
        for name, value in environment().items()
        if name not in ADDRESS and not name.startswith("TORCHELASTIC_")
    }


def launch(count: int, logs: str | Path, *overrides: str) -> int:
    """Run this very command, with overrides, as `count` processes and wait; when one fails, the others are ended.

    Signals go on to all of them. What the others than the first print is kept in logs/rankN.log.
    Returns 0, or the exit code of the first that failed (128 + the signal that ended it).
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, *sys.argv, *overrides]
    shared = single_process_environ() | {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "NODE_RANK": 0,
        PARENT: os.getpid(),
    }
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    files = [Path(logs) / f"rank{number}.log" for number in range(count)]
    crew: list[subprocess.Popen[bytes]] = []

    def forward(signum: int, frame: object) -> None:
        for process in crew:
            process.send_signal(signum)

    before = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    try:
        for number, file in enumerate(files):
            mine = shared | {"RANK": number, "LOCAL_RANK": number}
            env = {name: str(value) for name, value in mine.items()}
            with file.open("ab") if number else nullcontext() as log:
                # A group of its own: a terminal's Ctrl-C would reach it a second time.
                crew.append(subprocess.Popen(command, env=env, stdout=log, stderr=log, process_group=0))
        return _wait(crew, files)
    finally:
        for process in crew:
            process.kill()
            process.wait()
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _wait(crew: Sequence[subprocess.Popen[bytes]], files: Sequence[Path]) -> int:
    failed: int | None = None
    deadline = math.inf
    while (failed is None or time.monotonic() < deadline) and any(process.poll() is None for process in crew):
        failed = _first_failed(crew) if failed is None else failed
        deadline = min(deadline, time.monotonic() + GRACE) if failed is not None else deadline
        time.sleep(0.05)
    failed = _first_failed(crew) if failed is None else failed
    if failed is None:
        return 0
    code = crew[failed].returncode
    if failed:
        lines = files[failed].read_text(errors="replace").strip().splitlines()
        print(f"process {failed} of {len(crew)} failed with exit code {code}; see {files[failed]}", file=sys.stderr)
        print(*lines[-5:], sep="\n", file=sys.stderr)
    return code if code > 0 else 128 - code


def _first_failed(crew: Sequence[subprocess.Popen[bytes]]) -> int | None:
    """One that a signal ended before those that failed for want of it."""
    failed = [number for number, process in enumerate(crew) if process.returncode]
    return min(failed, key=lambda number: crew[number].returncode) if failed else None


def exit_with_parent() -> None:
    """However the process that started this one ends, so does this: one that was killed cannot end it."""
    if parent := os.environ.get(PARENT):
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
