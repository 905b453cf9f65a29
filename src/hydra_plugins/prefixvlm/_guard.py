"""Runs a command and ends it, with all processes that it has started, when the sweep ends.

The guard is a process between the sweep and a job, and the leader of their process group. Its standard input is a pipe
from the sweep: when the sweep is killed, the pipe closes, and the guard kills the group. A parent-death signal would
reach the job, but not the processes that the job has started.
"""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main(command: list[str]) -> int:
    """Run the command and return its exit code, 128 + N after signal N."""
    # Signals are forwarded to the command alone, which stops its own workers and ranks in its own way.
    job: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals that arrive before the command has started

    def forward(number: int, frame: FrameType | None) -> None:
        if job is None:
            early.append(number)
        else:
            job.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    job = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    for sent in early:
        job.send_signal(sent)
    threading.Thread(target=_kill_group_at_end_of_input, daemon=True).start()
    code = job.wait()
    return code if code >= 0 else 128 - code


def _kill_group_at_end_of_input() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
