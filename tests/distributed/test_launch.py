"""How many processes a run is, and who has started them; tests/test_runs.py starts real ones."""

import re
import sys

import pytest

from prefixvlm.distributed import launch

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "a"}


@pytest.fixture
def set_environment(monkeypatch):
    for name in launch.ADDRESS:
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (3, 3), ("3", 3), ([2, 5], 2), ("auto", 1), (-1, 1)])
def test_the_processes_that_a_cpu_run_asks_for(set_environment, devices, count):
    assert launch.num_processes({"accelerator": "cpu", "devices": devices}) == count


@pytest.mark.parametrize("others", [TORCHRUN, SLURM])
def test_what_others_have_started_is_not_started_again(set_environment, others):
    set_environment(others)
    for asked, become in ((1, 2), (2, 2), ([4, 7], [4, 7])):
        trainer = {"accelerator": "cpu", "devices": asked, "num_nodes": 1}
        assert launch.num_processes(trainer) == 1
        assert trainer == {"accelerator": "cpu", "devices": become, "num_nodes": 2}
    with pytest.raises(ValueError, match="asks for 3 processes a machine, but 2 were started"):
        launch.num_processes({"accelerator": "cpu", "devices": 3})
    assert launch.rank() == (3 if others is SLURM else 1)
    assert not {*TORCHRUN} & launch.single_process_environ().keys()


def test_several_machines_want_a_starter(set_environment):
    with pytest.raises(ValueError, match="use torchrun or srun"):
        launch.num_processes({"devices": 1, "num_nodes": 2})


def test_a_run_is_named_after_its_job_or_its_time(set_environment):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", launch.run_id())
    set_environment(SLURM)
    assert launch.run_id() == "slurm-42"
    set_environment({"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2"})
    assert launch.run_id() == "slurm-40_2"


def test_a_sweep_under_torchrun_is_one_and_not_on_several_machines(set_environment, monkeypatch):
    set_environment(TORCHRUN)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=1,2"])
    with pytest.raises(ValueError, match="a sweep under torchrun on 2 machines"):
        launch.run_sweep_once()
    set_environment({"WORLD_SIZE": "2"})
    with pytest.raises(SystemExit) as ended:  # rank 1 has nothing to do
        launch.run_sweep_once()
    assert ended.value.code == 0
    set_environment({"RANK": "0"})
    launch.run_sweep_once()
    assert sys.argv == ["train.py", "-m", "trainer.devices=2", "seed=1,2"]
    assert launch.num_processes({"accelerator": "cpu", "devices": 2}) == 2  # nobody has started this one any more
