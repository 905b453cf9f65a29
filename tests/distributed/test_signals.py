"""Signals from a program's first line on: while it imports, and while it waits in native code."""

import signal
import subprocess
import sys

import pytest

from prefixvlm.distributed import world
from prefixvlm.distributed.signals import SIGNALS, exiting_on_signals

IMPORTING = """
from prefixvlm.distributed.signals import exit_on_signals
exit_on_signals()
print("ready", flush=True)
import time
time.sleep(60)
"""
COMMAND = """
import sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "prefixvlm.command_line.subcommands":
            print("ready", flush=True)
            time.sleep(60)
sys.meta_path.insert(0, Slow())
from prefixvlm.cli import main
main()
"""
# As rank 0 of two, of which the other is not started: the handlers of Python cannot run.
WAITING = """
import torch.distributed as dist
from prefixvlm.distributed import signals
signals.GRACE = 0.1
with signals.signals.installed():
    print("ready", flush=True)
    dist.TCPStore("127.0.0.1", 0, 2, is_master=True)
"""
# Two signals at once, which the handlers have handled: nothing is left to do.
HANDLED = """
import os, signal, time
from prefixvlm.distributed import signals
signals.GRACE = 0.1
with signals.signals.installed():
    for number in (signal.SIGUSR1, signal.SIGTERM):
        try:
            os.kill(os.getpid(), number)
        except signals.StoppedBySignal:
            pass
    time.sleep(0.5)
print("alive")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("program", [IMPORTING, COMMAND, WAITING])
def test_a_signal_ends_a_program_that_imports_or_waits_quietly(program, number, code):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program], **options) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        error = process.communicate(timeout=60)[1]
    assert (process.returncode, error) == (code, "")


def test_the_former_handlers_are_back_after_a_block():
    before = [signal.getsignal(number) for number in SIGNALS]
    with exiting_on_signals():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_signal_that_is_handled_ends_no_program_later():
    done = subprocess.run([sys.executable, "-c", HANDLED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_a_process_that_waits_for_others_of_slurm_says_what_is_missing(monkeypatch, capsys):
    for name, value in {"NTASKS": 2, "PROCID": 0, "JOB_ID": 7, "JOB_NAME": "train", "NNODES": 1}.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    world._tell_if_waiting(2, 0.0)
    assert "process 0 of 2 waits for the others; SLURM starts all of them with `srun python" in capsys.readouterr().err


def test_a_single_process_waits_for_nobody(monkeypatch, capsys):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(world, "_tell_if_waiting", lambda *args: pytest.fail("it waits"))
    world.tell_if_waiting(0.0)
