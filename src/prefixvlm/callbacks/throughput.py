"""Training throughput and data-loading wait, from Lightning's profiler hooks."""

import time

from lightning.pytorch.profilers import PassThroughProfiler

FETCH = "[_TrainingEpochLoop].train_dataloader_next"  # Lightning's name of waiting for the next training batch


class Throughput(PassThroughProfiler):
    """Measures the training time without validations, and the share of it spent waiting for the loader.

    num_samples: to be increased with each batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        self.num_samples, self.wait_seconds, self.pause_seconds = 0, 0.0, 0.0
        self.fetch_start: float | None = None
        self.pause_start: float | None = None
        self.start_time, self.measures_wait = time.perf_counter(), False

    def start(self, action_name: str) -> None:
        if action_name == FETCH:
            self.fetch_start = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == FETCH and self.fetch_start is not None:
            self.wait_seconds += time.perf_counter() - self.fetch_start
            self.fetch_start, self.measures_wait = None, True

    def pause(self) -> None:
        self.pause_start = time.perf_counter()

    def resume(self) -> None:
        if self.pause_start is not None:
            self.pause_seconds += time.perf_counter() - self.pause_start
            self.pause_start = None

    def compute(self, num_steps: int, world_size: int) -> dict[str, float]:
        """Return the statistics since the last call, and restart."""
        seconds = max(time.perf_counter() - self.start_time - self.pause_seconds, 1e-9)
        values = {"samples_per_second": self.num_samples * world_size / seconds, "step_seconds": seconds / num_steps}
        if self.measures_wait:  # not where Lightning calls a profiler of the user instead
            values["data_wait"] = self.wait_seconds / seconds
        self.restart()
        return values
