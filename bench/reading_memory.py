"""Memory of a loader over many epochs."""

import os
import resource
import threading
import time
from pathlib import Path
from typing import Any

from prefixvlm.data.loading.train_loader import TrainLoader


def resident() -> float:
    """Return the resident memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def stream(loader: TrainLoader, minutes: float) -> dict[str, Any]:
    """Iterate over epochs of the loader; memory is sampled every second."""
    memory, stop = [resident()], threading.Event()

    def sample() -> None:
        while not stop.wait(1):
            memory.append(resident())

    watcher = threading.Thread(target=sample)
    watcher.start()
    images, end = 0, time.monotonic() + 60 * minutes
    try:
        while time.monotonic() < end:
            for batch in loader:
                images += len(batch)
                if time.monotonic() > end:
                    break
    finally:
        stop.set()
        watcher.join()
    tenth = max(1, len(memory) // 10)
    return {
        "minutes": minutes,
        "images": images,
        "epochs": loader.epoch + 1,
        "mb_at_start": round(memory[0]),
        "mb_after_a_tenth": round(memory[tenth]),
        "mb_at_end": round(memory[-1]),
        "mb_peak": round(max(memory)),
        "mb_peak_of_the_process": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
    }
