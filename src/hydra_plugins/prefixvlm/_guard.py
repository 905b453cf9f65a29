"""A command goes in; its exit code comes out, and nothing of it outlives the sweep, which holds our standard input.

A process of its own between the sweep and a job, and the leader of their group: where the sweep is killed, standard
input ends, and the whole group with it. A parent-death signal would reach the job, but not what the job has started.
"""

import os
import signal
import subprocess
import sys
import threading
from types import FrameType


def main(command: list[str]) -> int:
    """Signals are handed to the command alone, which tells its workers and ranks what to do."""
    job: subprocess.Popen[bytes] | None = None
    early: list[int] = []

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
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()
    code = job.wait()
    return code if code >= 0 else 128 - code


def _end_with_the_sweep() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
