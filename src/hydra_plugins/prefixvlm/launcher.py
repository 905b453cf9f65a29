"""The jobs of a sweep go in, each becomes a process with its own run folder; what each run returned comes out."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from hydra_plugins.prefixvlm._lock import only_sweep
from hydra_plugins.prefixvlm._processes import Job, run, visible_gpus, why
from prefixvlm.errors import quoted

OBJECTIVE = "objective.json"
OWN = ("mode", "sweep", "launcher", "run.", "job.num", "job.id")  # of hydra.*: the sweep's, not its jobs'
PRUNER = "+callbacks.pruner"  # of a job, changes when it is run again


@dataclass
class ProcessLauncherConf:
    """n_jobs: how many run side by side. gpus_per_job: null for trainer.devices."""

    _target_: str = "hydra_plugins.prefixvlm.launcher.ProcessLauncher"
    n_jobs: int = 1
    gpus_per_job: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="processes", node=ProcessLauncherConf, provider="prefixvlm")


class ProcessLauncher(Launcher):
    """A job is the command of the sweep with its own options and folder. A failed one does not stop the others."""

    def __init__(self, n_jobs: int = 1, gpus_per_job: int | None = None) -> None:
        self.n_jobs, self.gpus_per_job = n_jobs, gpus_per_job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self.n_jobs < 1:
            raise ValueError(f"hydra.launcher.n_jobs is {self.n_jobs}; set it to 1 or more")
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run them all; return in their order."""
        jobs = list(zip(range(initial_job_idx, sys.maxsize), job_overrides, _labels(job_overrides), strict=False))
        return self.run(jobs, len(jobs))

    def run(
        self,
        jobs: Iterable[tuple[int, Sequence[str], str]],
        total: int,
        n_jobs: int | None = None,
        ended: Callable[[int, JobReturn, bool], None] | None = None,
    ) -> list[JobReturn]:
        """Run them as there is room, return in order.

        jobs: number, options and label; taken when there is room, so that a sampler may know of the last ones' ends.

        ended: called with a job's number, what it returned, and whether it was pruned; not for one that was stopped.
        """
        setup_globals()
        n_jobs = n_jobs or self.n_jobs
        results: dict[int, JobReturn] = {}
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        with only_sweep(sweep_dir), tqdm(total=total, disable=None, unit="job") as bar:
            say(f"{total} jobs, {min(n_jobs, total)} at a time, in {sweep_dir}")

            def on_end(job: Job, code: int, time: str) -> None:
                result, how, pruned = _outcome(job, code)
                results[job.number] = result
                if ended and not job.stopped:
                    ended(job.number, result, pruned)
                bar.update()
                say(f"[{len(results)}/{total}] {job.label}: {how}" + (f"; see {job.log}" if code else f", {time}"))

            def unfinished() -> Iterator[Job]:
                for job in (self._job(*each) for each in jobs):
                    if _is_finished(job):
                        on_end(job, 0, "finished before")
                    else:
                        yield job

            gpus = visible_gpus()
            stopped_by = run(unfinished(), n_jobs, lambda job, code, s: on_end(job, code, f"{s:.0f} s"), gpus)
        if stopped_by:
            say(f"The same command with hydra.sweep.dir={quoted(str(sweep_dir))} goes on.")
            sys.exit(128 + stopped_by)
        _sum_up(results, sweep_dir)
        return [results[number] for number in sorted(results)]

    def _job(self, number: int, overrides: Sequence[str], label: str) -> Job:
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        HydraConfig.instance().set_config(cfg)
        folder = Path(str(self.config.hydra.sweep.dir)).absolute() / str(cfg.hydra.sweep.subdir)
        command = [sys.executable, os.path.abspath(sys.argv[0]), *flags(cfg), *overrides, *_handed(cfg)]
        place = [f"hydra.job.num={number}", f"hydra.job.id={number}", f"hydra.run.dir={quoted(str(folder))}"]
        return Job(number, [*command, *place], folder, label, self._num_gpus(cfg), (list(overrides), cfg))

    def _num_gpus(self, cfg: DictConfig) -> int | None:
        trainer = cfg.get("trainer") or {}
        if self.gpus_per_job is not None:
            return self.gpus_per_job
        if trainer.get("accelerator") == "cpu":
            return 0
        devices = trainer.get("devices", 1)
        if OmegaConf.is_list(devices):
            return len(devices)
        return int(devices) if str(devices).isdecimal() else None


def say(line: str) -> None:
    """On the terminal above the bar."""
    tqdm.write(line)
    sys.stdout.flush()


def flags(cfg: DictConfig) -> list[str]:
    """The flags of the sweep that choose its configuration."""
    folders = [source.path for source in cfg.hydra.runtime.config_sources if source.provider == "command-line"]
    return ["--config-name", cfg.hydra.job.config_name, *(word for path in folders for word in ("--config-dir", path))]


def _handed(cfg: DictConfig) -> list[str]:
    """The options of Hydra itself that its jobs are to have too."""
    return [o for o in cfg.hydra.overrides.hydra if not o.lstrip("+~")[len("hydra.") :].startswith(OWN)]


def _labels(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """What tells each job from the others."""
    common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    return [" ".join(o for o in overrides if o not in common) or "the job" for overrides in job_overrides]


def _is_finished(job: Job) -> bool:
    """Whether it ran to its end before. Raises ValueError if its folder is another job's."""
    overrides, _ = job.about
    written = job.folder / ".hydra" / "overrides.yaml"
    if not written.is_file():
        return False
    before = OmegaConf.to_container(OmegaConf.load(written))
    assert isinstance(before, list)
    if _lasting(before) != _lasting(overrides):
        raise ValueError(f"{job.folder} is a run with other options, {' '.join(before)}; set another hydra.sweep.dir")
    return (job.folder / OBJECTIVE).is_file()


def _lasting(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith(PRUNER)]


def _outcome(job: Job, code: int) -> tuple[JobReturn, str, bool]:
    """What Hydra is told, what the user is told, and whether the run was pruned."""
    overrides, cfg = job.about
    result = JobReturn(overrides=overrides, working_dir=os.getcwd(), task_name=cfg.hydra.job.name)
    if code:
        result.status = JobStatus.FAILED
        return result, "was stopped" if job.stopped else why(code, job.log), False
    value, pruned = objective(job.folder)
    result.status, result.return_value = JobStatus.COMPLETED, value
    values = value if isinstance(value, list) else [] if value is None else [value]
    names = cfg.get("objectives") or [cfg.get("monitor") or "value"]
    figures = [f"{name} {value:.4g}" for name, value in zip(names, values, strict=False)]
    return result, ", ".join(["pruned" if pruned else "done", *figures]), pruned


def objective(folder: Path) -> tuple[Any, bool]:
    """The value that a run has left, a float, several or None, and whether it was pruned."""
    path = folder / OBJECTIVE
    if not path.is_file():
        return None, False
    written = json.loads(path.read_text(encoding="utf-8"))
    return written["value"], bool(written.get("pruned"))


def _sum_up(results: dict[int, JobReturn], sweep_dir: Path) -> None:
    """The one error that the sweep ends with names all jobs that failed."""
    failed = sorted(number for number, result in results.items() if result.status == JobStatus.FAILED)
    for number in failed:
        named = ", ".join(map(str, failed))
        error = f"{len(failed)} of {len(results)} jobs failed: {named}; see job.log of each in {sweep_dir}"
        results[number].return_value = ValueError(error)
