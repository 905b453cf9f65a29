"""Locks of folders: one process at a time, also where it was killed."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from prefixvlm import run
from prefixvlm.distributed import launch
from prefixvlm.lock import only_process

HOLD = """
import os, sys, time
from pathlib import Path
from prefixvlm.lock import only_process
with only_process(Path(sys.argv[1]), "taken"):
    if not os.fork():
        time.sleep(60)  # as a data worker of a run
    print("locked", flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder):
    """A process that has locked the folder, with a child."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_killed(tmp_path, monkeypatch):
    with holder(tmp_path) as first:
        expected = rf"^another process is training in {tmp_path}; wait for it, .* or set another hydra.run.dir"
        with pytest.raises(ValueError, match=expected), run.only_run(tmp_path):
            pass
        monkeypatch.setenv(launch.PARENT, str(os.getpid()))
        with run.only_run(tmp_path):  # a rank of the first run
            pass
        monkeypatch.delenv(launch.PARENT)
        first.kill()
        first.wait()
        with run.only_run(tmp_path):  # at once, although a child of the killed process is left
            assert (tmp_path / ".lock").is_file()
    assert not list(tmp_path.iterdir())


def test_the_end_of_an_inner_lock_does_not_release_the_outer_one(tmp_path):
    code = "import pathlib, sys, prefixvlm.lock as l; l.only_process(pathlib.Path(sys.argv[1]), 'no').__enter__()"
    with only_process(tmp_path, "taken"):
        with only_process(tmp_path, "taken"):
            pass
        other = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert "ValueError: no" in other.stderr
