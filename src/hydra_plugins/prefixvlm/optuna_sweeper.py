"""Hydra sweeper that searches with Optuna and writes the best set-up as an experiment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.prefixvlm._experiment import experiment
from hydra_plugins.prefixvlm._lock import only_sweep
from hydra_plugins.prefixvlm.launcher import PRUNER, ProcessLauncher, say
from prefixvlm.atomic import write_text
from prefixvlm.errors import quoted
from prefixvlm.training.objective import Objective, read_objective


@dataclass
class OptunaSweeperConf:
    """Options of the sweeper.

    n_trials: number of trials of the whole study. n_jobs: number of jobs at a time; null for that of the launcher.
    direction: minimize or maximize; null for that of monitor_mode; a list for several objectives.
    storage: see open_storage; null for study.db in the sweep's folder. sampler: tpe or random.
    pruner: none, median or hyperband. params: the search space, by key as in a command.
    """

    _target_: str = "hydra_plugins.prefixvlm.optuna_sweeper.OptunaSweeper"
    n_trials: int = 20
    n_jobs: int | None = None
    direction: Any = None
    storage: str | None = None
    study_name: str = "sweep"
    sampler: str = "tpe"
    seed: int = 0
    pruner: str = "none"
    params: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConf, provider="prefixvlm")


class OptunaSweeper(Sweeper):
    """Runs trials of a study; see OptunaSweeperConf. A sweep that is started again in its folder resumes its study."""

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None,
        direction: str | Sequence[str] | None,
        storage: str | None,
        study_name: str,
        sampler: str,
        seed: int,
        pruner: str,
        params: dict[str, Any],
    ) -> None:
        self.n_trials, self.n_jobs, self.direction, self.storage = n_trials, n_jobs, direction, storage
        self.study_name, self.sampler, self.seed, self.pruner, self.params = study_name, sampler, seed, pruner, params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._config, self.loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run jobs until the study has n_trials. Raises the error of a failed job after all have run."""
        # Here, because Hydra imports this module in every program, also without Optuna.
        from hydra_plugins.prefixvlm._space import space
        from hydra_plugins.prefixvlm._study import Study
        from prefixvlm.sweep.study import import_optuna, make_pruner

        import_optuna()
        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        self.space = space(OverridesParser.create(config_loader=self.loader).parse_overrides(overrides))
        cfg = self._compose_each_choice()
        directions = self._directions(cfg)
        self.objectives = list(cfg.get("objectives") or [cfg.get("monitor") or "value"])
        make_pruner(self.pruner)
        if self.pruner != "none" and len(directions) > 1:
            raise ValueError("Optuna prunes by one objective only; set hydra.sweeper.pruner=none")
        self.dir = Path(str(self._config.hydra.sweep.dir)).absolute()
        with only_sweep(self.dir):
            OmegaConf.save(self._config, self.dir / "multirun.yaml")
            self.place = self.storage or str(self.dir / "study.db")
            self.study = Study(self.place, self.study_name, directions, self.sampler, self.seed)
            if count := self.study.give_up_running():
                say(f"{count} trials were interrupted and are run again")
            results = self._run()
            self._save_best()
            self._report()
        for result in results:
            _ = result.return_value  # a property that raises the error of a failed job
        if not self.study.best():
            raise ValueError(f"no trial gave {len(directions)} values; see {self.dir}")
        return results

    def _directions(self, cfg: DictConfig) -> list[str]:
        if self.direction is None:
            return ["maximize" if cfg.get("monitor_mode") == "max" else "minimize"]
        return [self.direction] if isinstance(self.direction, str) else list(self.direction)

    def _compose_each_choice(self) -> DictConfig:
        """Compose a job with each choice, to raise errors before anything runs. Returns the first one."""
        from optuna.distributions import CategoricalDistribution

        def first_value(value: Any) -> Any:
            return value.choices[0] if isinstance(value, CategoricalDistribution) else value.low

        first = {key: first_value(value) for key, value in self.space.free.items()}
        for key, value in self.space.free.items():
            for choice in value.choices[1:] if isinstance(value, CategoricalDistribution) else ():
                self.loader.load_sweep_config(self._config, self.space.overrides(first | {key: choice}))
        return self.loader.load_sweep_config(self._config, self.space.overrides(first))

    def _proposals(self, total: int) -> Iterator[tuple[int, list[str], str]]:
        """Yield number, overrides and label of each job. Each is proposed when it can run, to learn from the others."""
        waiting = self.study.counts().get("waiting", 0)
        while waiting or self.study.num_started() < self.n_trials:
            job, trial, params = self.study.ask(self.space)
            waiting = max(waiting - 1, 0)
            overrides = self.space.overrides(params)
            if self.pruner != "none":
                overrides.append(self._pruner_override(trial))
            yield job, overrides, " ".join(self.space.chosen(params))

    def _pruner_override(self, trial: int) -> str:
        place = quoted(self.place if "://" in self.place else str(Path(self.place).absolute()))
        study, monitor = quoted(self.study_name), quoted(self.objectives[0])
        options = f"storage: {place}, study: {study}, trial: {trial}, monitor: {monitor}, pruner: {self.pruner}"
        return f"{PRUNER}={{_target_: prefixvlm.callbacks.pruner.Pruner, {options}}}"

    def _run(self) -> list[JobReturn]:
        total = max(self.n_trials - self.study.num_started(), 0)
        if isinstance(self._launcher, ProcessLauncher):
            return self._launcher.run(self._proposals(total), total, self.n_jobs, self._tell)
        # Another launcher, as submitit: in batches, each of consecutive job numbers, because launch() counts them.
        results: list[JobReturn] = []
        proposals = self._proposals(total)
        while batch := list(islice(proposals, self.n_jobs or 1)):
            for _, together in groupby(enumerate(batch), key=lambda each: each[1][0] - each[0]):
                jobs = [job for _, job in together]
                returned = self._launcher.launch([overrides for _, overrides, _ in jobs], initial_job_idx=jobs[0][0])
                for (number, _, _), result in zip(jobs, returned, strict=True):
                    assert result.hydra_cfg
                    written = read_objective(Path(result.hydra_cfg.hydra.runtime.output_dir)) or Objective(None)
                    if result.status == JobStatus.COMPLETED and result.return_value is None:
                        result.return_value = written.value
                    self._tell(number, result, written.pruned)
                results += returned
        return results

    def _tell(self, job: int, result: JobReturn, pruned: bool) -> None:
        failed = result.status != JobStatus.COMPLETED
        error = str(result._return_value) if failed else None
        self.study.tell(job, None if failed else result.return_value, pruned, error)
        self._save_best()

    def _save_best(self) -> None:
        from hydra_plugins.prefixvlm._study import JOB, results

        write_text(self.dir / "results.json", results(self.study, self.objectives))
        if best := self.study.best():
            values = ", ".join(f"{n} {v:.6g}" for n, v in zip(self.objectives, best[0].values, strict=False))
            title = [f"Job {best[0].user_attrs.get(JOB)} of the sweep in {self.dir}: {values}."]
            if len(self.study.directions) > 1:
                title.append(f"The best in {self.objectives[0]}; results.json has the whole Pareto front.")
            title.append("Copy it to conf/experiment/NAME.yaml and train with experiment=NAME.")
            write_text(self.dir / "best.yaml", experiment(self.space.overrides(best[0].params), self.loader, title))

    def _report(self) -> None:
        counts = ", ".join(f"{count} {name}" for name, count in self.study.counts().items())
        say(f"Trials: {counts}")
        for trial in self.study.best():
            values = ", ".join(f"{n} {v:.4g}" for n, v in zip(self.objectives, trial.values, strict=False))
            say(f"Best: {values} with {' '.join(self.space.chosen(trial.params))}")
        if (self.dir / "best.yaml").exists():
            say(f"As an experiment: {self.dir / 'best.yaml'}")
