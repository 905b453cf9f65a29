"""An Optuna search with train.py that is stopped in the middle of a run and resumed."""

import json
import signal
import time

import pytest

from prefixvlm.sweep.report import compare
from prefixvlm.training.checkpoint_file import load
from tests.forked import FORKED
from tests.test_end_to_end import parts, run  # noqa: F401


@pytest.mark.slow
def test_a_search_stopped_in_a_run_goes_on_in_its_folder(parts, tmp_path):  # noqa: F811
    folder = tmp_path / "sweep"
    options = [
        *parts, "test=false", "callbacks.last.every_n_steps=1", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1",
        "optim.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.pruner=median", f"hydra.sweep.dir={folder}",
    ]  # fmt: skip
    process = FORKED.start(["train.py", "-m", *options], env={"CUDA_VISIBLE_DEVICES": ""})
    last = folder / "0" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out = process.communicate(timeout=120)
    assert process.returncode == 143, out
    assert not (folder / "0" / "objective.json").exists()
    stopped_at = load(last)["global_step"]
    out = run("train.py", "-m", *options, CUDA_VISIBLE_DEVICES="").stdout
    assert "1 trials were interrupted and are run again" in out
    assert "Trials: 1 complete" in out
    assert 1 <= stopped_at < load(last)["global_step"] == 5
    value = json.loads((folder / "0" / "objective.json").read_text())["value"]
    assert compare(folder).set_ups[0].mean == value
    assert "optim:\n  lr: " in (folder / "best.yaml").read_text()
