"""The trials: each disturbs real commands, runs them again, and compares the end with an undisturbed one."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from prefixvlm.training.checkpoint_file import load
from tests.data.shards.test_write import command as write_command
from tests.data.shards.test_write import make_table
from tests.soak.bad_server import bad_server
from tests.soak.bench import Bench, LostError, finish, processes, start, wait
from tests.test_runs import losses

KILLS = 3
TWO = ("trainer.devices=2", "data.batch_size=2")
WORKERS = ("data.num_workers=2",)
EVAL_FILES = {"metrics.json", "predictions.jsonl", "report.html"}


def training(bench: Bench, folder: Path) -> None:
    """Kill -9 of a training."""
    _kill_training(bench, folder)


def training_of_two_processes(bench: Bench, folder: Path) -> None:
    """Kill -9 of the parent or of a rank."""
    _kill_training(bench, folder, *TWO)


def clock(bench: Bench, folder: Path) -> None:
    """Kill -9, and a clock that jumps by up to a day at each start and while it runs."""
    (folder / "sitecustomize.py").write_text(
        "import os, random, time\n"
        "rng, now = random.Random(os.getpid()), time.time\n"
        "time.time = lambda: now() + rng.uniform(-86400, 86400)\n"
    )
    run, log = folder / "run", folder / "log"
    process = start(bench.train(run), log, PYTHONPATH=str(folder))
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(bench.rng.uniform(1, bench.whole()[1]))
    process.kill()
    wait(process, log)
    for path in run.rglob("*.ckpt"):
        day = time.time() + bench.rng.uniform(-86400, 86400)
        os.utime(path, (day, day))
    bench.disturbances += 1
    finish(bench.train(run), log, PYTHONPATH=str(folder))
    bench.compare(run)


def data_worker(bench: Bench, folder: Path) -> None:
    """Kill -9 of a process that reads data."""
    run, log = folder / "run", folder / "log"
    for _ in range(KILLS):
        process, deadline = start(bench.train(run, *WORKERS), log), time.monotonic() + bench.whole()[1]
        while len(workers := children(process.pid)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(bench.rng.uniform(0, 0.5))
        with contextlib.suppress(ProcessLookupError, IndexError):
            os.kill(bench.rng.choice(workers), signal.SIGKILL)
            bench.disturbances += 1
        wait(process, log)
    finish(bench.train(run, *WORKERS), log)
    bench.compare(run)  # the number of workers changes nothing


def evaluation(bench: Bench, folder: Path) -> None:
    """Kill -9 of an evaluation: all of its files, or none."""
    run, log = folder / "run", folder / "log"
    finish(bench.train(run, "trainer.max_epochs=1"), log)
    ours = [f"ckpt={run}/checkpoints/last.ckpt", f"shards={bench.shards}", "limit=4", "blind=false"]
    command = [sys.executable, "eval.py", *ours]
    began = time.monotonic()
    finish([*command, f"out={folder}/whole"], log)
    seconds = time.monotonic() - began
    for _ in range(KILLS):
        bench.kill([*command, f"out={folder}/eval"], log, seconds)
        if (found := {path.name for path in folder.glob("eval/*")}) and not found >= EVAL_FILES:
            raise LostError(f"only {sorted(found)} are written")
    finish([*command, f"out={folder}/eval"], log)
    one, two = (folder / name / "predictions.jsonl" for name in ("whole", "eval"))
    if one.read_bytes() != two.read_bytes():
        raise LostError("other predictions than those of an undisturbed evaluation")


def shards(bench: Bench, folder: Path) -> None:
    """Kill -9 of a command that writes shards in two processes, or of one of them."""
    images, log = bench.folder / "table", folder / "log"
    if not images.exists():
        images.mkdir()
        make_table(images)
        finish(cli(write_command(images, images / "whole", 1)), bench.folder / "log")
    for _ in range(KILLS):
        bench.kill(cli(write_command(images, folder / "out", 2)), log, 10, bench.rng.choice(["parent", "group", "any"]))
    if not (folder / "out").exists():
        finish(cli(write_command(images, folder / "out", 2)), log)
    for path in (images / "whole").iterdir():
        if path.read_bytes() != (folder / "out" / path.name).read_bytes():
            raise LostError(f"{path.name} has other bytes")


def sweep(bench: Bench, folder: Path) -> None:
    """Kill -9 of a sweep of two jobs at a time."""
    run, log = folder / "sweep", folder / "log"
    command = [*bench.train(run, "hydra.launcher.n_jobs=2", "seed=1,2")[:-1], "-m", f"hydra.sweep.dir={run}"]
    for _ in range(KILLS):
        bench.kill(command, log, 2 * bench.whole()[1])
    finish(command, log)
    for number, seed in enumerate((1, 2)):
        alone = bench.whole(f"seed={seed}")[0]["losses"]
        if losses(run / str(number)) != alone:
            raise LostError(f"job {number} has not ended as a training alone")


def full_disk(bench: Bench, folder: Path) -> None:
    """A training on a disk that fills up, then has room again."""
    disk, log = folder / "disk", folder / "log"
    disk.mkdir()
    used = sum(path.stat().st_size for path in (bench.folder / "whole0").rglob("*") if path.is_file())
    size = int(used * bench.rng.uniform(0.05, 1.5)) + 4096  # the next checkpoint is written beside the last one
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], check=True)
    try:
        code = wait(start(bench.train(disk / "run"), log), log)
        bench.disturbances += code != 0
        if code and "No space left" not in log.read_text():
            raise LostError(f"exit code {code} without a word of the disk; see {log}")
        if (last := disk / "run" / "checkpoints" / "last.ckpt").exists():
            load(last)
        subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
        finish(bench.train(disk / "run"), log)
        bench.compare(disk / "run")
    finally:
        subprocess.run(["umount", disk], check=True)


def full_shared_memory(bench: Bench, folder: Path) -> None:
    """A training with data workers and a /dev/shm of some kilobytes."""
    run, log = folder / "run", folder / "log"
    small = f'mount -t tmpfs -o size={bench.rng.randrange(8, 256)}k tmpfs /dev/shm && exec "$@"'
    code = wait(start(["unshare", "-m", "sh", "-c", small, "sh", *bench.train(run, *WORKERS)], log), log)
    bench.disturbances += code != 0
    finish(bench.train(run, *WORKERS), log)
    bench.compare(run)


def stalled_server(bench: Bench, folder: Path) -> None:
    """Shards from a server that stalls, cuts, fails and lies."""
    log = folder / "log"
    with bad_server(bench.shards.parent, bench.rng) as (url, faults):
        options = [f"data.shards={url}/shards", f"data.cache_dir={folder}/cache"]
        for attempt in range(10):
            code = wait(start(bench.train(folder / "run", *options), log), log)
            if not code:
                break
            if code != 2 or attempt == 9:
                raise LostError(f"exit code {code} in attempt {attempt + 1}; see {log}")
    bench.disturbances += len(faults)
    if losses(folder / "run") != bench.whole()[0]["losses"]:
        raise LostError("other losses than from the disk")


def _kill_training(bench: Bench, folder: Path, *options: str) -> None:
    seconds = bench.whole(*options)[1]
    for _ in range(KILLS):
        bench.kill(bench.train(folder / "run", *options), folder / "log", 1.2 * seconds, "any")
    finish(bench.train(folder / "run", *options), folder / "log")
    bench.compare(folder / "run", *options)


def children(parent: int) -> list[int]:
    """Return the children of a process in its session."""
    return [pid for pid in processes(parent) if pid != parent]


def cli(command: list[str]) -> list[str]:
    return [sys.executable, "-m", "prefixvlm.cli", *command[1:]]


NEED_ROOT = (full_disk, full_shared_memory)  # they make mounts of their own
# Each is called with a bench and an empty folder.
TRIALS = (
    training, training_of_two_processes, data_worker, clock, evaluation, shards, sweep, stalled_server, *NEED_ROOT
)  # fmt: skip
