"""Rank and number of processes of this run, from the environment of torchrun, SLURM or our launcher."""

import os
import re
import sys
import threading
import time
from collections.abc import MutableMapping, Sequence
from datetime import datetime
from typing import Any

from prefixvlm.errors import environment

RUN_ID_KEY = "prefixvlm/started"  # in the store of torchrun
VARIABLES = {
    *("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK"),
    *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
}


def under_srun() -> bool:
    """Return whether srun started this process, as Lightning's SLURMEnvironment.detect does, without importing it."""
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def rank() -> int:
    """Return the global rank of this process, 0 if it is the only one."""
    if under_srun():
        return int(os.environ["SLURM_PROCID"])
    return int(os.environ.get("RANK", 0))


def started_world() -> dict[str, int]:
    """Return the devices per machine and the machines of a launcher that started this process; empty if none did."""
    if under_srun():
        nodes = int(os.environ.get("SLURM_NNODES", 1))
        return {"devices": int(os.environ["SLURM_NTASKS"]) // nodes, "num_nodes": nodes}
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return {}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}


def num_processes(trainer: MutableMapping[str, Any]) -> int:
    """Return how many processes to start for trainer.devices; 1 if torchrun, srun or `launch` has started all.

    In the latter case trainer.devices and trainer.num_nodes are set to what was started.
    Raises ValueError if they contradict it, or ask for several machines without such a launcher.
    """
    requested = num_devices(str(trainer.get("accelerator", "auto")), trainer.get("devices", 1))
    world = started_world()
    if world and requested not in (1, world["devices"]):
        raise ValueError(
            f"trainer.devices asks for {requested} processes a machine, but {world['devices']} were started; "
            "leave trainer.devices out"
        )
    if not world and int(trainer.get("num_nodes", 1)) > 1:
        raise ValueError("trainer.num_nodes needs a launcher that starts a process per device: use torchrun or srun")
    if not world:
        return requested
    trainer["num_nodes"] = world["num_nodes"]
    if requested != world["devices"]:  # if equal, it may be a list that names the devices
        trainer["devices"] = world["devices"]
    return 1


def num_devices(accelerator: str, devices: Any) -> int:
    """Return how many processes trainer.devices requests on this machine."""
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    import torch
    from lightning.pytorch.accelerators import CUDAAccelerator

    if accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available()):
        everything = devices in ("auto", -1, "-1")
        return torch.cuda.device_count() if everything else len(CUDAAccelerator.parse_devices(devices) or ())
    return int(devices) if str(devices).isdecimal() else 1


def check_devices(accelerator: str, devices: Any, key: str = "trainer.devices") -> None:
    """Raise ValueError for an accelerator or devices that this machine lacks. torch is imported only to count GPUs."""
    if started_world():
        return  # by whoever knows the devices
    gpus = _num_gpus() if accelerator in ("auto", "gpu", "cuda", "mps") else 0
    if not gpus and accelerator not in ("auto", "cpu"):
        raise ValueError(f"trainer.accelerator is {accelerator}, but this machine has no such device; set trainer=cpu")
    count, kind = (gpus, "GPUs") if gpus else (os.cpu_count() or 1, "CPU cores")
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        if not gpus or not all(type(device) is int and 0 <= device < gpus for device in devices) or not devices:
            raise ValueError(f"{key} is {list(devices)}, but this machine has {gpus} GPUs, numbered from 0")
    elif re.fullmatch(r"[+-]?\d+", str(devices)) and not (1 <= int(devices) <= count or (gpus and int(devices) == -1)):
        everything = ", or to -1 for all of them" if gpus else ""
        raise ValueError(f"{key} is {devices}, but this machine has {count} {kind}; set it to 1 to {count}{everything}")


def _num_gpus() -> int:
    # Files that every driver of a GPU makes on Linux. Where there are none, torch need not be imported to count.
    if sys.platform == "linux" and not any(map(os.path.exists, ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))):
        return 0
    import torch

    return torch.cuda.device_count() or int(torch.backends.mps.is_available())


def run_id() -> str:
    """Return the name of the run's folder: the starting time, equal on all ranks, or the id of a SLURM job."""
    if under_srun():
        # A requeued job keeps its id, so that it finds its folder and resumes.
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        return f"slurm-{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else f"slurm-{os.environ['SLURM_JOB_ID']}"
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return now
    import torch

    # The clocks of torchrun's processes may differ by a second: the first to store its time decides.
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return torch.distributed.TCPStore(address, port, is_master=False).compare_set(RUN_ID_KEY, "", now).decode()


def tell_if_waiting(seconds: float = 15.0) -> None:
    """Print what is missing if the other processes of this run have not come after some seconds."""
    world = started_world()
    count = world.get("devices", 1) * world.get("num_nodes", 1)
    if count > 1:
        threading.Thread(target=_tell_if_waiting, args=(count, seconds), daemon=True).start()


def _tell_if_waiting(count: int, seconds: float) -> None:
    import torch

    deadline = time.monotonic() + seconds
    while not torch.distributed.is_initialized():
        if time.monotonic() > deadline:
            missing = f"process {rank()} of {count} waits for the others"
            if under_srun():
                missing += "; SLURM starts all of them with `srun python ...`, and a single one with --ntasks=1"
            print(missing, file=sys.stderr, flush=True)
            return
        time.sleep(0.2)


def single_process_environ() -> dict[str, str]:
    """Return the environment without the variables that make this process one of several."""
    return {
        name: value
        for name, value in environment().items()
        if name not in VARIABLES and not name.startswith("TORCHELASTIC_")
    }
