"""Optuna study of a sweep: numbers the trials as jobs, and resumes after a kill."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra_plugins.prefixvlm._space import Space
from prefixvlm.provenance.redaction import redact
from prefixvlm.sweep.study import import_optuna, open_storage

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random")
DIRECTIONS = ("minimize", "maximize")
JOB, REPLACED, ERROR = "job", "replaced", "error"  # user attributes of a trial


class Study:
    """An Optuna study in which each trial has the number of a job, and so a folder; a trial that is repeated keeps it.

    The sampler is seeded by the number of the job, so that a resumed sweep proposes what an uninterrupted one would.
    """

    def __init__(self, storage: str, name: str, directions: Sequence[str], sampler: str, seed: int) -> None:
        for direction in directions:
            if direction not in DIRECTIONS:
                raise ValueError(f"hydra.sweeper.direction is {direction!r}; accepted are {', '.join(DIRECTIONS)}")
        if sampler not in SAMPLERS:
            raise ValueError(f"hydra.sweeper.sampler is {sampler!r}; accepted are {', '.join(SAMPLERS)}")
        self.optuna = import_optuna()
        self.sampler, self.seed = sampler, seed
        self.optuna_study = self.optuna.create_study(
            storage=open_storage(storage), study_name=name, directions=list(directions), load_if_exists=True
        )
        self.directions = [direction.name.lower() for direction in self.optuna_study.directions]
        if self.directions != list(directions):
            raise ValueError(f"the study {name} in {storage} has direction {', '.join(self.directions)}; name another")
        self.started: dict[int, Any] = {}

    def trials(self) -> list["FrozenTrial"]:
        """Return the trials without those that were interrupted and repeated."""
        return [t for t in self.optuna_study.get_trials(deepcopy=False) if REPLACED not in t.user_attrs]

    def give_up_running(self) -> int:
        """Mark the running trials of a killed sweep as failed and enqueue them again. Returns their number."""
        state = self.optuna.trial.TrialState
        running = [trial for trial in self.trials() if trial.state == state.RUNNING]
        for trial in running:
            same_job = [t for t in self.trials() if t.user_attrs.get(JOB) == trial.user_attrs.get(JOB, -1)]
            if len(same_job) < 2:  # it may have been enqueued before a kill in this loop
                self.optuna_study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            self.optuna.Trial(self.optuna_study, trial._trial_id).set_user_attr(REPLACED, True)
            self.optuna_study.tell(trial.number, state=state.FAIL)
        return len(running)

    def ask(self, space: Space) -> tuple[int, int, dict[str, Any]]:
        """Start a trial. Returns the number of its job, its own number, and its parameters."""
        job = max((trial.user_attrs.get(JOB, -1) for trial in self.trials()), default=-1) + 1
        self.optuna_study.sampler = self._sampler(self.seed + job)
        trial = self.optuna_study.ask(dict(space.free))
        job = trial.user_attrs.get(JOB, job)  # an enqueued trial has one
        trial.set_user_attr(JOB, job)
        self.started[job] = trial
        return job, trial.number, trial.params

    def num_started(self) -> int:
        """Return the number of trials without those that are enqueued."""
        return sum(trial.state != self.optuna.trial.TrialState.WAITING for trial in self.trials())

    def tell(self, job: int, value: Any, pruned: bool, error: str | None) -> None:
        """Store the result of a job. It has failed if there is an error, or not a finite value for each direction."""
        trial, state = self.started[job], self.optuna.trial.TrialState
        values = value if isinstance(value, list | tuple) else [value]
        if error is None and pruned:
            self.optuna_study.tell(trial, state=state.PRUNED)
        elif error is None and len(values) == len(self.directions) and all(map(_is_finite, values)):
            self.optuna_study.tell(trial, list(map(float, values)))
        else:
            trial.set_user_attr(
                ERROR, error or f"its value is {value}, {len(self.directions)} finite ones are expected"
            )
            self.optuna_study.tell(trial, state=state.FAIL)

    def best(self) -> list["FrozenTrial"]:
        """Return the best trial, or with several objectives the Pareto front, sorted by the first objective."""
        sign = 1 if self.directions[0] == "minimize" else -1
        front = sorted(self.optuna_study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))
        return front if len(self.directions) > 1 else front[:1]

    def counts(self) -> dict[str, int]:
        """Return the number of trials by state."""
        names = [trial.state.name.lower() for trial in self.trials()]
        return {name: names.count(name) for name in sorted(set(names))}

    def _sampler(self, seed: int) -> "BaseSampler":
        samplers = self.optuna.samplers
        return samplers.TPESampler(seed=seed) if self.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def results(study: Study, objectives: Sequence[str]) -> str:
    """Return the objectives, the number of trials, and the best trial or the Pareto front, as JSON."""
    front = [
        {"job": t.user_attrs.get(JOB), "trial": t.number, "values": t.values, "params": t.params} for t in study.best()
    ]
    goal = dict(zip(objectives, study.directions, strict=False))
    return json.dumps(redact({"objectives": goal, "trials": study.counts(), "best": front}), indent=2) + "\n"
