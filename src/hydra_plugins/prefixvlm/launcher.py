"""Hydra launcher that runs each job of a sweep as a process with its own run folder."""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from tqdm import tqdm

from hydra_plugins.prefixvlm._lock import only_sweep
from hydra_plugins.prefixvlm._processes import Job, failure, run, visible_gpus
from prefixvlm.errors import quoted
from prefixvlm.training.objective import OBJECTIVE, Objective, read_objective

SWEEP_ONLY = ("mode", "sweep", "launcher", "run.", "job.num", "job.id")  # options of hydra.* that jobs do not get
PRUNER = "+callbacks.pruner"  # an override of a job that changes when the job is repeated

Proposal = tuple[int, Sequence[str], str]  # number, overrides and label of a job


@dataclass
class ProcessLauncherConf:
    """Options of the launcher. n_jobs: jobs at a time. gpus_per_job: null for the number in trainer.devices."""

    _target_: str = "hydra_plugins.prefixvlm.launcher.ProcessLauncher"
    n_jobs: int = 1
    gpus_per_job: int | None = None


ConfigStore.instance().store(group="hydra/launcher", name="processes", node=ProcessLauncherConf, provider="prefixvlm")


class ProcessLauncher(Launcher):
    """Runs a job as the command of the sweep with the job's overrides and folder. A failed job does not stop others."""

    # Processes, because Lightning's DDP in Hydra's own process repeats the sweep in each rank (Lightning #11300) and
    # leaves its environment variables and process group to the next job.

    def __init__(self, n_jobs: int = 1, gpus_per_job: int | None = None) -> None:
        self.n_jobs, self.gpus_per_job = n_jobs, gpus_per_job

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        if self.n_jobs < 1:
            raise ValueError(f"hydra.launcher.n_jobs is {self.n_jobs}; set it to 1 or more")
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run all jobs and return their results in order."""
        jobs = list(zip(range(initial_job_idx, sys.maxsize), job_overrides, _labels(job_overrides), strict=False))
        return self.run(jobs, len(jobs))

    def run(
        self,
        jobs: Iterable[Proposal],
        total: int,
        n_jobs: int | None = None,
        on_result: Callable[[int, JobReturn, bool], None] | None = None,
    ) -> list[JobReturn]:
        """Run the jobs, n_jobs at a time, and return their results in order.

        jobs: each is taken when it can start, so that a sampler may use the results before it.
        on_result: called with a job's number, its result and whether it was pruned; not for a job that was stopped.
        """
        setup_globals()
        n_jobs = n_jobs or self.n_jobs
        results: dict[int, JobReturn] = {}
        sweep_dir = Path(str(self.config.hydra.sweep.dir)).absolute()
        with only_sweep(sweep_dir), tqdm(total=total, disable=None, unit="job") as bar:
            say(f"{total} jobs, {min(n_jobs, total)} at a time, in {sweep_dir}")

            def on_end(job: Job, code: int, time: float | str) -> None:
                result, description, pruned = _outcome(job, code)
                results[job.number] = result
                if on_result and not job.stopped:
                    on_result(job.number, result, pruned)
                bar.update()
                suffix = f"; see {job.log}" if code else f", {time if isinstance(time, str) else f'{time:.0f} s'}"
                say(f"[{len(results)}/{total}] {job.label}: {description}{suffix}")

            stopped_by = run(self._unfinished(jobs, on_end), n_jobs, on_end, visible_gpus())
        if stopped_by:
            say(f"To resume, run the same command with hydra.sweep.dir={quoted(str(sweep_dir))}.")
            sys.exit(128 + stopped_by)
        _set_errors(results, sweep_dir)
        return [results[number] for number in sorted(results)]

    def _unfinished(self, jobs: Iterable[Proposal], on_end: Callable[[Job, int, str], None]) -> Iterator[Job]:
        """Yield the jobs to run; those that a former sweep in this folder has finished go to on_end."""
        for job in (self._job(*each) for each in jobs):
            if _is_finished(job):
                on_end(job, 0, "finished before")
            else:
                yield job

    def _job(self, number: int, overrides: Sequence[str], label: str) -> Job:
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        HydraConfig.instance().set_config(cfg)
        folder = Path(str(self.config.hydra.sweep.dir)).absolute() / str(cfg.hydra.sweep.subdir)
        command = [sys.executable, os.path.abspath(sys.argv[0]), *config_flags(cfg), *overrides, *_hydra_overrides(cfg)]
        own = [f"hydra.job.num={number}", f"hydra.job.id={number}", f"hydra.run.dir={quoted(str(folder))}"]
        return Job(number, [*command, *own], folder, label, self._num_gpus(cfg), (list(overrides), cfg))

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
    """Print a line above the progress bar."""
    tqdm.write(line)
    sys.stdout.flush()


def config_flags(cfg: DictConfig) -> list[str]:
    """Return the flags that choose the configuration of the sweep."""
    folders = [source.path for source in cfg.hydra.runtime.config_sources if source.provider == "command-line"]
    return ["--config-name", cfg.hydra.job.config_name, *(word for path in folders for word in ("--config-dir", path))]


def _hydra_overrides(cfg: DictConfig) -> list[str]:
    """Return the overrides of hydra.* that the jobs get too."""
    return [o for o in cfg.hydra.overrides.hydra if not o.lstrip("+~")[len("hydra.") :].startswith(SWEEP_ONLY)]


def _labels(job_overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return for each job the overrides that not all jobs have."""
    common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    return [" ".join(o for o in overrides if o not in common) or "the job" for overrides in job_overrides]


def _is_finished(job: Job) -> bool:
    """Return whether a former sweep has finished the job. Raises ValueError if its folder is another job's."""
    overrides, _ = job.info
    written = job.folder / ".hydra" / "overrides.yaml"
    if not written.is_file():
        return False
    before = OmegaConf.to_container(OmegaConf.load(written))
    assert isinstance(before, list)
    if _without_pruner(before) != _without_pruner(overrides):
        raise ValueError(f"{job.folder} is a run with other options, {' '.join(before)}; set another hydra.sweep.dir")
    return (job.folder / OBJECTIVE).is_file()


def _without_pruner(overrides: Sequence[str]) -> list[str]:
    return [override for override in overrides if not override.startswith(PRUNER)]


def _outcome(job: Job, code: int) -> tuple[JobReturn, str, bool]:
    """Return the result of a job for Hydra, its description for the user, and whether it was pruned."""
    overrides, cfg = job.info
    result = JobReturn(overrides=overrides, working_dir=os.getcwd(), task_name=cfg.hydra.job.name)
    if code:
        result.status = JobStatus.FAILED
        return result, "was stopped" if job.stopped else failure(code, job.log), False
    written = read_objective(job.folder) or Objective(None)
    result.status, result.return_value = JobStatus.COMPLETED, written.value
    names = cfg.get("objectives") or [cfg.get("monitor") or "value"]
    figures = [f"{name} {value:.4g}" for name, value in zip(names, written.values, strict=False)]
    return result, ", ".join(["pruned" if written.pruned else "done", *figures]), written.pruned


def _set_errors(results: dict[int, JobReturn], sweep_dir: Path) -> None:
    """Give the failed jobs an error that names all of them, because Hydra raises only the first one."""
    failed = sorted(number for number, result in results.items() if result.status == JobStatus.FAILED)
    for number in failed:
        named = ", ".join(map(str, failed))
        error = f"{len(failed)} of {len(results)} jobs failed: {named}; see job.log of each in {sweep_dir}"
        results[number].return_value = ValueError(error)
