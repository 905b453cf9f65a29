"""A small Hydra program without torch, in a folder with a name that needs quotes, and a class that runs it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

APP = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from prefixvlm.errors import job, one_sentence

@hydra.main(version_base="1.3", config_path="conf", config_name="app")
@job
def main(cfg):
    out = Path(HydraConfig.get().runtime.output_dir)
    began, gpus = time.time(), os.environ.get("CUDA_VISIBLE_DEVICES")
    signal.signal(signal.SIGTERM, lambda *_: ((out / "saved").touch(), sys.exit(143)))
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"]) if cfg.child else None
    pids = [os.getpid(), *([child.pid] if child else [])]
    with (out / "starts.txt").open("a") as file:
        print(json.dumps([began, gpus, pids, cfg.text]), file=file)
    if cfg.x == 13:
        raise ValueError("thirteen brings bad luck")
    first_start = len((out / "starts.txt").read_text().splitlines()) == 1
    wait = cfg.seconds if cfg.slow is None or (HydraConfig.get().job.num == cfg.slow and first_start) else 0
    deadline = time.monotonic() + wait
    while time.monotonic() < deadline:
        time.sleep(0.02)
    value = (cfg.x - 3) ** 2 + cfg.opt.y
    value = [value, -cfg.x] if cfg.two else value
    (out / "ended").write_text(str(time.time()))
    (out / "objective.json").write_text(json.dumps({"value": value, "pruned": cfg.x == cfg.prune}))

if __name__ == "__main__":
    one_sentence(main)()
"""
CONF = """
defaults: [_self_, opt: a, override hydra/launcher: processes]
x: 1
text: ''
seconds: 0
slow: null
child: false
two: false
prune: null
hydra: {sweep: {dir: swept, subdir: "${hydra.job.num}"}}
"""


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "an app, a=1 'b'"
    (folder / "conf" / "opt").mkdir(parents=True)
    (folder / "app.py").write_text(APP)
    (folder / "conf" / "app.yaml").write_text(CONF)
    for name, y in (("a", 0), ("b", 10)):
        (folder / "conf" / "opt" / f"{name}.yaml").write_text(f"y: {y}\n")
    return folder / "app.py"


class Sweep:
    """A sweep in a session of its own; nothing of it outlives the test."""

    def __init__(self, app, *arguments, **env):
        self.dir = app.parent / "swept"
        self.process = subprocess.Popen(
            [sys.executable, str(app), "-m", *map(str, arguments)], cwd=app.parent, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **env},
        )  # fmt: skip

    def job(self, number):
        return self.dir / str(number)

    def starts(self, number):
        path = self.job(number) / "starts.txt"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for(self, condition, timeout=60):
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, "the condition did not become true in time"
            if self.process.poll() is not None and not condition():
                raise AssertionError(self.process.communicate()[0])
            time.sleep(0.02)

    def end(self, code=0, timeout=120):
        """Wait for the sweep and return its output."""
        out = self.process.communicate(timeout=timeout)[0]
        assert self.process.returncode == code, out
        return out


@pytest.fixture
def sweep(app):
    sweeps = []

    def begin(*arguments, **env):
        sweeps.append(Sweep(app, *arguments, **env))
        return sweeps[-1]

    yield begin
    for each in sweeps:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)  # and the guards end the jobs
        each.process.communicate(timeout=30)


def alive(pid):
    """Return whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
