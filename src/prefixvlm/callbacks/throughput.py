"""The beginnings and ends of what Lightning does go in; how fast training is, and what it waits for, comes out."""

import time

from lightning.pytorch.profilers import PassThroughProfiler

FETCH = "[_TrainingEpochLoop].train_dataloader_next"  # what Lightning calls it


class Clock(PassThroughProfiler):
    """How long training took, without validations, and how much of that Lightning waited for the loader.

    Lightning tells its profiler when it begins to wait, and tells nobody else; a profiler of the user's comes first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.restart()

    def restart(self) -> None:
        self.samples, self.waited, self.paused = 0, 0.0, 0.0
        self.asked: float | None = None
        self.stopped: float | None = None
        self.began, self.told = time.perf_counter(), False

    def start(self, action_name: str) -> None:
        if action_name == FETCH:
            self.asked = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name == FETCH and self.asked is not None:
            self.waited, self.asked, self.told = self.waited + time.perf_counter() - self.asked, None, True

    def pause(self) -> None:
        self.stopped = time.perf_counter()

    def go_on(self) -> None:
        if self.stopped is not None:
            self.paused, self.stopped = self.paused + time.perf_counter() - self.stopped, None

    def read(self, num_steps: int, world: int) -> dict[str, float]:
        """Of the time since the last reading."""
        seconds = max(time.perf_counter() - self.began - self.paused, 1e-9)
        values = {"samples_per_second": self.samples * world / seconds, "step_seconds": seconds / num_steps}
        if self.told:
            values["data_wait"] = self.waited / seconds
        self.restart()
        return values
