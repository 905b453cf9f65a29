"""train.py in several processes, and under signals and kills, with real processes and files."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import load
from tests.callbacks.test_last_checkpoint import equal
from tests.forked import FORKED
from tests.test_end_to_end import ROOT, parts, run  # noqa: F401  # a fixture

REAL = {"REAL_CHILDREN": "1"}  # ranks with command lines of their own, which pgrep finds
TRAIN = [str(ROOT / "train.py"), "test=false", "data.limit_val_predictions=0"]


def losses(folder):
    records = load(folder / "checkpoints" / "last.ckpt")["callbacks"]["History"]["records"]
    return {(each["step"], each["name"]): each["value"] for each in records if each["name"].endswith("loss")}


def end(folder):
    """Return the state that a resumed run depends on. Lightning may count the end of an epoch in two ways."""
    checkpoint = load(folder / "checkpoints" / "last.ckpt")
    best = [state.get("best_model_score") for state in checkpoint["callbacks"].values()]
    names = ("state_dict", "optimizer_states", "lr_schedulers", "ShardDataModule", "global_step")
    ours = {name: value for name, value in checkpoint[KEY].items() if name not in ("config", "provenance")}
    return {name: checkpoint[name] for name in names} | {"best": best, "ours": ours, "losses": losses(folder)}


def start(parts, folder, *overrides):  # noqa: F811
    return FORKED.start([*TRAIN, *parts, f"hydra.run.dir={folder}", *overrides], env=REAL)


def ended(process, code):
    """Return all that a process printed. Its exit code must be this one."""
    out = "".join(process.communicate(timeout=60))
    assert process.returncode == code, out
    return out


def wait_for_step(folder, process, newer_than=0.0):
    """Wait for a new checkpoint; the process must not end before."""
    path, deadline = folder / "checkpoints" / "last.ckpt", time.monotonic() + 90
    while not (path.is_file() and path.stat().st_mtime > newer_than):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def processes_of(folder):
    """Return the processes with the folder in their command lines."""
    found = subprocess.run(["pgrep", "-f", f"hydra.run.dir=.?{folder}"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def assert_gone(folder):
    deadline = time.monotonic() + 10
    while processes_of(folder):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.1)


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(parts, tmp_path):  # noqa: F811
    options = ["trainer.max_epochs=2", "trainer.accumulate_grad_batches=2"]
    run(*TRAIN, *parts, *options, "data.batch_size=8", f"hydra.run.dir={tmp_path}/one")
    done = run(*TRAIN, *parts, *options, "data.batch_size=4", "trainer.devices=2", f"hydra.run.dir={tmp_path}/two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) > 6
    assert two == pytest.approx(one, abs=1e-5)
    assert done.stdout.count("M trained") == 3  # only the first process prints
    assert "Run folder" in done.stdout
    logged = sorted(path.name for path in (tmp_path / "two").iterdir())
    assert logged == [".hydra", "checkpoints", "csv", "objective.json", "rank1.log"]
    weights = [load(tmp_path / name / "checkpoints" / "last.ckpt")["state_dict"] for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_torchrun_makes_one_folder_a_run_and_one_sweep(parts, tmp_path):  # noqa: F811
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    options = [*parts, "data.batch_size=4", "trainer.accelerator=cpu", "trainer.max_steps=1"]
    run(*torchrun, *TRAIN, *options, cwd=tmp_path, PYTHONPATH=str(ROOT / "src"))
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert json.loads((folder / "objective.json").read_text())["value"] > 0
    assert (folder / ".hydra" / "config.yaml").is_file()
    run(*torchrun, TRAIN[0], "-m", *TRAIN[1:], *options, "seed=1", cwd=tmp_path, PYTHONPATH=str(ROOT / "src"))
    (sweep,) = (tmp_path / "outputs" / "sweep").iterdir()
    assert (sweep / "0" / "rank1.log").is_file()  # a job has two processes, as given to torchrun
    assert load(sweep / "0" / "checkpoints" / "last.ckpt")["global_step"] == 1


@pytest.mark.slow
def test_tasks_of_slurm_are_the_ranks_of_a_run_that_is_named_after_the_job(parts, tmp_path):  # noqa: F811
    """The two tasks of a node are started as by srun, without SLURM."""
    shared = {"SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "a", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    shared |= {"SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1"}
    command = [*TRAIN, *parts, "data.batch_size=4", "trainer.accelerator=cpu", "trainer.max_epochs=300"]
    command.append("callbacks.last.every_n_steps=1")
    tasks = [FORKED.start(command, tmp_path, shared | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}) for rank in "01"]
    folder = tmp_path / "outputs" / "train" / "slurm-42"
    wait_for_step(folder, tasks[0])
    for task in tasks:
        task.send_signal(signal.SIGUSR1)  # as sbatch --signal=USR1@300 does
    errors = [task.communicate(timeout=90)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [143, 143], errors
    assert "Stopped by SIGUSR1" in errors[0]
    assert load(folder / "checkpoints" / "last.ckpt")["global_step"] > 0
    assert os.listdir(folder.parent) == ["slurm-42"]


@pytest.mark.slow
@pytest.mark.timeout(900)  # real processes: each imports torch, and busy cores took 288 s
def test_a_run_that_is_stopped_and_killed_ends_as_one_that_is_not(parts, tmp_path):  # noqa: F811
    """In two processes: by SIGTERM, by the death of a rank, and by kill -9; `make soak` does many."""
    options = ["data.batch_size=4", "trainer.devices=2", "trainer.max_epochs=5", "trainer.deterministic=true"]
    options += ["callbacks.last.every_n_steps=1", "trainer.val_check_interval=3"]
    run(*TRAIN, *parts, *options, f"hydra.run.dir={tmp_path}/whole", timeout=120, **REAL)
    folder = tmp_path / "stopped"
    path = folder / "checkpoints" / "last.ckpt"

    process = start(parts, folder, *options)
    wait_for_step(folder, process)
    process.send_signal(signal.SIGTERM)
    out = ended(process, 143)
    assert "Stopped by SIGTERM at step" in out
    assert "Traceback" not in out
    assert not (folder / "objective.json").exists()
    assert_gone(folder)

    process = start(parts, folder, *options)
    wait_for_step(folder, process, path.stat().st_mtime)
    ranks = [pid for pid in processes_of(folder) if "\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_text()]
    os.kill(ranks[0], signal.SIGKILL)
    assert "process 1 of 2 failed with exit code -9" in ended(process, 137)
    assert_gone(folder)

    process = start(parts, folder, *options)
    wait_for_step(folder, process, path.stat().st_mtime)
    process.send_signal(signal.SIGKILL)
    ended(process, -9)
    assert_gone(folder)
    assert load(path)["global_step"] > 0

    run(*TRAIN, *parts, *options, "resume=must", f"hydra.run.dir={folder}", timeout=120, **REAL)
    assert equal(end(folder), end(tmp_path / "whole"))
    assert not list(folder.rglob("*.tmp"))


def test_a_run_with_a_damaged_last_checkpoint_resumes_from_the_previous_one(parts, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    run(*TRAIN, *parts, "data.batch_size=8", "callbacks.last.every_n_steps=2", f"hydra.run.dir={folder}")
    last, previous = (folder / "checkpoints" / name for name in ("last.ckpt", "previous.ckpt"))
    expected, step = end(folder), load(previous)["global_step"]
    assert step == 4
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1  # torch.load itself takes it
    last.write_bytes(content)
    (folder / "objective.json").unlink()  # else the run is finished
    done = run(*TRAIN, *parts, "data.batch_size=8", "callbacks.last.every_n_steps=2", f"hydra.run.dir={folder}")
    assert "last.ckpt is not a checkpoint, or a damaged one" in done.stderr
    assert "the run resumes from previous.ckpt" in done.stderr
    assert equal(end(folder), expected)
    for path in (last, previous):
        path.write_bytes(b"PK")
    (folder / "objective.json").unlink()
    done = run(*TRAIN, *parts, f"hydra.run.dir={folder}", code=2)
    assert "set resume=never to start over" in done.stderr


def test_init_from_loads_the_weights_of_another_run(parts, tmp_path):  # noqa: F811
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    run(*TRAIN, *parts, "data.batch_size=8", f"hydra.run.dir={first}")
    checkpoint = first / "checkpoints" / "last.ckpt"
    options = ["data.batch_size=8", "optim.lr=0", "trainer.max_steps=1", "seed=5"]
    run(*TRAIN, *parts, *options, f"init_from={checkpoint}", f"hydra.run.dir={second}")
    began = load(second / "checkpoints" / "last.ckpt")
    assert equal(began["state_dict"], load(checkpoint)["state_dict"])
    assert began["global_step"] == 1
    run(*TRAIN, *parts, *options, f"init_from={second}/checkpoints/last.ckpt", f"hydra.run.dir={third}")
    lineage = load(third / "checkpoints" / "last.ckpt")[KEY]["lineage"]
    assert [parent["checkpoint"] for parent in lineage] == [str(checkpoint), f"{second}/checkpoints/last.ckpt"]
    assert [parent["step"] for parent in lineage] == [5, 1]
