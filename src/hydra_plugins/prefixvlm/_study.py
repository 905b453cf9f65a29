"""A study goes in; its trials are asked for, told of and, after a killed sweep, asked for again."""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra_plugins.prefixvlm._space import Space
from prefixvlm.sweep.study import import_optuna, open_storage

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random")
DIRECTIONS = ("minimize", "maximize")
JOB, REPLACED, ERROR = "job", "replaced", "error"  # what we write beside a trial


class Study:
    """Optuna's, where each trial is a job with a number and a folder, that stays the same when it is run again.

    The sampler is seeded anew for each job: a sweep that goes on after a kill asks for what it would have asked for.
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
        self.asked: dict[int, Any] = {}

    def trials(self) -> list["FrozenTrial"]:
        """Those that count: one that was run again is replaced by the later one."""
        return [t for t in self.optuna_study.get_trials(deepcopy=False) if REPLACED not in t.user_attrs]

    def give_up_running(self) -> int:
        """Trials of a sweep that is dead are failed and will be the next that are asked for. Returns how many."""
        state = self.optuna.trial.TrialState
        running = [trial for trial in self.trials() if trial.state == state.RUNNING]
        for trial in running:
            again = [t for t in self.trials() if t.user_attrs.get(JOB) == trial.user_attrs.get(JOB, -1)]
            if len(again) < 2:
                self.optuna_study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)
            self.optuna.Trial(self.optuna_study, trial._trial_id).set_user_attr(REPLACED, True)
            self.optuna_study.tell(trial.number, state=state.FAIL)
        return len(running)

    def ask(self, space: Space) -> tuple[int, int, dict[str, Any]]:
        """The number of the next job, that of its trial, and its parameters."""
        job = max((trial.user_attrs.get(JOB, -1) for trial in self.trials()), default=-1) + 1
        self.optuna_study.sampler = self._sampler(self.seed + job)
        trial = self.optuna_study.ask(dict(space.free))
        job = trial.user_attrs.get(JOB, job)
        trial.set_user_attr(JOB, job)
        self.asked[job] = trial
        return job, trial.number, trial.params

    def num_asked(self) -> int:
        """How many trials there are, without those that still wait to be asked for."""
        return sum(trial.state != self.optuna.trial.TrialState.WAITING for trial in self.trials())

    def tell(self, job: int, value: Any, pruned: bool, error: str | None) -> None:
        """How a job ended; what has no finite value for each direction counts as failed."""
        trial, state = self.asked[job], self.optuna.trial.TrialState
        values = value if isinstance(value, list | tuple) else [value]
        if error is None and pruned:
            self.optuna_study.tell(trial, state=state.PRUNED)
        elif error is None and len(values) == len(self.directions) and all(map(_is_finite, values)):
            self.optuna_study.tell(trial, list(map(float, values)))
        else:
            trial.set_user_attr(ERROR, error or f"its value is {value}, {len(self.directions)} finite ones are wanted")
            self.optuna_study.tell(trial, state=state.FAIL)

    def best(self) -> list["FrozenTrial"]:
        """The best trial; of several objectives the Pareto front, the best in the first objective first."""
        sign = 1 if self.directions[0] == "minimize" else -1
        front = sorted(self.optuna_study.best_trials, key=lambda trial: (sign * trial.values[0], trial.number))
        return front if len(self.directions) > 1 else front[:1]

    def counts(self) -> dict[str, int]:
        names = [trial.state.name.lower() for trial in self.trials()]
        return {name: names.count(name) for name in sorted(set(names))}

    def _sampler(self, seed: int) -> "BaseSampler":
        samplers = self.optuna.samplers
        return samplers.TPESampler(seed=seed) if self.sampler == "tpe" else samplers.RandomSampler(seed=seed)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def write(path: Path, text: str) -> None:
    """In one step."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def results(study: Study, objectives: Sequence[str]) -> str:
    """As JSON: what was searched for, and the best trial or the Pareto front."""
    front = [
        {"job": t.user_attrs.get(JOB), "trial": t.number, "values": t.values, "params": t.params} for t in study.best()
    ]
    goal = dict(zip(objectives, study.directions, strict=False))
    return json.dumps({"objectives": goal, "trials": study.counts(), "best": front}, indent=2) + "\n"
