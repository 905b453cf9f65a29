"""Sweeps of a small program as a user starts them: processes, folders, GPUs, signals and resuming."""

import json
import os
import signal
import time

import pytest

from hydra_plugins.prefixvlm._processes import failure, least_used, visible_gpus
from prefixvlm.training.objective import Objective, read_objective
from tests.hydra_plugins.conftest import alive


def test_a_failed_job_is_reported_and_the_others_go_on(sweep):
    grid = sweep("x=2,13,4", "text='a=b, c'")
    out = grid.end(code=2)
    assert "[1/3] x=2: done, value 1" in out
    assert "[2/3] x=13: failed with exit code 2: error: thirteen brings bad luck; see " in out
    assert "[3/3] x=4: done, value 1" in out
    assert out.count("error:") == 2  # of the job, and of the sweep
    assert "error: 1 of 3 jobs failed: 1; see job.log of each in " in out.splitlines()[-1]
    assert "Traceback" not in out
    assert "thirteen" in (grid.job(1) / "job.log").read_text()
    assert [read_objective(grid.job(n)) for n in range(3)] == [Objective(1), None, Objective(1)]
    assert grid.starts(2)[0][3] == "a=b, c"


def test_several_failed_jobs_are_named(sweep):
    assert "2 of 3 jobs failed: 0, 2;" in sweep("x=13,1", "+y=1", "x=13,2,13").end(code=2)


def test_parallel_jobs_have_their_own_gpus(sweep):
    grid = sweep(
        "x=1,2,3,4", "seconds=1", "hydra.launcher.n_jobs=2", "+trainer.devices=2", CUDA_VISIBLE_DEVICES="7,1,5,4"
    )
    grid.end()
    starts = [grid.starts(n)[0] for n in range(4)]
    ends = [float((grid.job(n) / "ended").read_text()) for n in range(4)]
    assert starts[1][0] < ends[0]
    assert starts[0][0] < ends[1]
    assert {starts[0][1], starts[1][1]} == {starts[2][1], starts[3][1]} == {"7,1", "5,4"}
    assert sum(start[0] < min(ends) for start in starts) == 2


def test_without_gpus_none_are_visible(sweep):
    grid = sweep("x=1,2")
    grid.end()
    assert [grid.starts(n)[0][1] for n in range(2)] == ["", ""]


@pytest.mark.parametrize(
    ("used", "num_gpus", "expected"),
    [
        ([], 1, ["a"]),
        ([["a"]], 1, ["b"]),
        ([["b"]], 2, ["a", "c"]),
        ([["a", "b"], ["c"]], 2, ["a", "b"]),
        ([["a"], ["a"], ["b"], ["c"]], 1, ["b"]),
        ([], 9, ["a", "b", "c"]),
        ([], 0, []),
    ],
)
def test_gpus_are_shared_only_where_there_are_too_few(used, num_gpus, expected):
    assert least_used(["a", "b", "c"], used, num_gpus) == expected


def test_an_outer_cuda_visible_devices_is_respected(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a, 3")
    assert visible_gpus() == ["GPU-a", "3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == []


def test_options_of_hydra_and_the_choice_of_a_configuration_reach_the_jobs(app, sweep):
    (app.parent / "conf" / "other.yaml").write_text("defaults: [app, _self_]\ntext: of other\n")
    grid = sweep(
        "--config-name=other",
        "x=1,2",
        "hydra.output_subdir=.composed",
        "hydra.sweep.subdir=${hydra.job.override_dirname}",
    )
    grid.end()
    assert grid.starts("x=1")[0][3] == "of other"
    assert (grid.job("x=2") / ".composed" / "config.yaml").exists()


def test_configuration_errors_are_raised_before_anything_runs(sweep):
    grid = sweep("x=1", "opt=a,c")
    assert "there is no opt 'c'" in grid.end(code=2)
    assert not grid.job(0).exists()
    assert "hydra.launcher.n_jobs is 0" in sweep("x=1,2", "hydra.launcher.n_jobs=0").end(code=2)


def test_finished_jobs_are_not_run_again_and_failed_ones_are(sweep):
    sweep("x=2,13").end(code=2)
    again = sweep("x=2,13")
    out = again.end(code=2)
    assert "x=2: done, value 1, finished before" in out
    assert [len(again.starts(n)) for n in range(2)] == [1, 2]


def test_the_folder_of_another_sweep_is_refused(sweep):
    sweep("x=2,4").end()
    assert "is a run with other options, x=2" in sweep("x=3,4").end(code=2)


def test_two_sweeps_do_not_share_a_folder(sweep):
    first = sweep("x=1", "seconds=30")
    first.wait_for(lambda: first.starts(0))
    assert "another sweep is running in" in sweep("x=1", "seconds=30").end(code=2)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_sweep_lets_its_jobs_save_and_starts_no_more(sweep, number, code):
    grid = sweep("x=1,2,3", "seconds=30", "child=true", "hydra.launcher.n_jobs=2")
    grid.wait_for(lambda: grid.starts(0) and grid.starts(1))
    grid.process.send_signal(number)
    out = grid.end(code=code)
    assert "To resume, run the same command with hydra.sweep.dir=" in out
    assert "Traceback" not in out
    assert (grid.job(0) / "saved").exists() == (number != signal.SIGINT)
    assert not grid.job(2).exists()
    assert not any(alive(pid) for n in range(2) for pid in grid.starts(n)[0][2])


def test_nothing_outlives_a_killed_sweep_which_then_resumes(sweep):
    options = ["x=1,2,3", "seconds=30", "slow=1", "child=true"]
    grid = sweep(*options)
    grid.wait_for(lambda: grid.starts(1))
    pids = grid.starts(1)[0][2]
    assert all(alive(pid) for pid in pids)
    os.kill(grid.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    again = sweep(*options)
    assert "[1/3] x=1: done, value 4, finished before" in again.end()
    assert [len(again.starts(n)) for n in range(3)] == [1, 2, 1]


def test_submitit_runs_the_same_sweeps(sweep):
    pytest.importorskip("submitit", reason="pip install submitit hydra-submitit-launcher")
    grid = sweep("hydra/launcher=submitit_local", "x=2,13,4")
    assert "error: thirteen brings bad luck" in grid.end(code=2)
    assert [read_objective(grid.job(n)) for n in range(3)] == [Objective(1), None, Objective(1)]


def test_the_description_of_a_failure(tmp_path):
    log = tmp_path / "job.log"
    log.write_text("10%\r20%\rRuntimeError: no memory\nwandb: bye\n")
    assert failure(1, log) == "failed with exit code 1: RuntimeError: no memory"
    assert failure(137, log) == "was killed (out of memory?)"
    log.write_text("")
    assert failure(3, log) == "failed with exit code 3: no output"


def test_an_objective_that_is_not_there_is_none(tmp_path):
    assert read_objective(tmp_path) is None
    (tmp_path / "objective.json").write_text(json.dumps({"value": [1, 2], "pruned": True}))
    assert read_objective(tmp_path) == Objective([1, 2], True)
