"""How many processes a run has, and which launcher has started them."""

import re

import pytest

from prefixvlm.distributed import world

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "3", "SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "a"}


@pytest.fixture
def set_environment(monkeypatch):
    for name in world.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(name, value) for name, value in values.items()]


@pytest.mark.parametrize(("devices", "count"), [(1, 1), (3, 3), ("3", 3), ([2, 5], 2), ("auto", 1), (-1, 1)])
def test_number_of_processes_of_a_cpu_run(set_environment, devices, count):
    assert world.num_processes({"accelerator": "cpu", "devices": devices}) == count


@pytest.mark.parametrize("launcher", [TORCHRUN, SLURM])
def test_processes_that_a_launcher_has_started_are_not_started_again(set_environment, launcher):
    set_environment(launcher)
    for requested, devices in ((1, 2), (2, 2), ([4, 7], [4, 7])):
        trainer = {"accelerator": "cpu", "devices": requested, "num_nodes": 1}
        assert world.num_processes(trainer) == 1
        assert trainer == {"accelerator": "cpu", "devices": devices, "num_nodes": 2}
    with pytest.raises(ValueError, match="asks for 3 processes a machine, but 2 were started"):
        world.num_processes({"accelerator": "cpu", "devices": 3})
    assert world.rank() == (3 if launcher is SLURM else 1)
    assert not {*TORCHRUN} & world.single_process_environ().keys()


def test_several_machines_need_a_launcher(set_environment):
    with pytest.raises(ValueError, match="use torchrun or srun"):
        world.num_processes({"devices": 1, "num_nodes": 2})


def test_a_run_is_named_after_its_job_or_its_time(set_environment):
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", world.run_id())
    set_environment(SLURM)
    assert world.run_id() == "slurm-42"
    set_environment({"SLURM_ARRAY_JOB_ID": "40", "SLURM_ARRAY_TASK_ID": "2"})
    assert world.run_id() == "slurm-40_2"
