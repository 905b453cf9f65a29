"""An Optuna search with train.py that is stopped in the middle of a run and resumed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from prefixvlm.sweep.report import compare
from prefixvlm.training.checkpoint_file import load
from tests.test_end_to_end import ROOT, parts, run  # noqa: F401


@pytest.mark.slow
def test_a_search_stopped_in_a_run_goes_on_in_its_folder(parts, tmp_path):  # noqa: F811
    folder = tmp_path / "sweep"
    options = [
        *parts, "test=false", "callbacks.last.every_n_steps=1", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=2",
        "optim.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.pruner=median", f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "train.py", "-m", *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    ) as process:  # fmt: skip
        last = folder / "0" / "checkpoints" / "last.ckpt"
        deadline = time.monotonic() + 120
        while not last.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out = process.communicate(timeout=120)[0]
    assert process.returncode == 143, out
    assert not (folder / "0" / "objective.json").exists()
    stopped_at = load(last)["global_step"]
    out = run("train.py", "-m", *options, CUDA_VISIBLE_DEVICES="").stdout
    assert "1 trials were interrupted and are run again" in out
    assert "Trials: 2 complete" in out
    assert 1 <= stopped_at < load(last)["global_step"] == 5
    values = [json.loads((folder / str(n) / "objective.json").read_text())["value"] for n in range(2)]
    assert compare(folder).set_ups[0].mean == min(values)
    assert "optim:\n  lr: " in (folder / "best.yaml").read_text()
