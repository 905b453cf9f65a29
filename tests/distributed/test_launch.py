"""A sweep under torchrun; tests/test_runs.py starts real processes."""

import sys

import pytest

from prefixvlm.distributed import launch, world
from tests.distributed.test_world import TORCHRUN, set_environment  # noqa: F401


def test_a_sweep_under_torchrun_runs_once_and_not_on_several_machines(set_environment, monkeypatch):  # noqa: F811
    set_environment(TORCHRUN)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=1,2"])
    with pytest.raises(ValueError, match="a sweep under torchrun on 2 machines"):
        launch.run_sweep_once()
    set_environment({"WORLD_SIZE": "2"})
    with pytest.raises(SystemExit) as exit_of_rank_1:
        launch.run_sweep_once()
    assert exit_of_rank_1.value.code == 0
    set_environment({"RANK": "0"})
    launch.run_sweep_once()
    assert sys.argv == ["train.py", "-m", "trainer.devices=2", "seed=1,2"]
    assert world.num_processes({"accelerator": "cpu", "devices": 2}) == 2  # the environment is that of one process
