"""Stops a run of an Optuna sweep early if it is worse than the others."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.sweep.study import import_optuna, make_pruner, open_storage


class Pruner(Callback):
    """Reports `monitor` to the study after each validation and stops the fit if the study's pruner decides so.

    storage: see open_storage. study: its name. trial: the number of this run's trial. pruned: whether it was stopped.
    Only rank 0 opens the storage, and broadcasts the decision. If it cannot be opened, the run is not stopped.
    """

    def __init__(self, storage: str, study: str, trial: int, monitor: str, pruner: str = "median") -> None:
        self.storage, self.study, self.trial, self.monitor, self.pruner = storage, study, trial, monitor, pruner
        self.num_validations, self.pruned = 0, False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            raise ValueError(
                f"there is no {self.monitor} to prune by; accepted are {', '.join(sorted(trainer.callback_metrics))}"
            )
        self.num_validations += 1
        value = float(trainer.callback_metrics[self.monitor])
        self.pruned = trainer.strategy.broadcast(trainer.is_global_zero and self._should_prune(value), src=0)
        if self.pruned:
            trainer.should_stop = True

    def _should_prune(self, value: float) -> bool:
        optuna = import_optuna()
        try:
            storage = open_storage(self.storage)
            study = optuna.load_study(study_name=self.study, storage=storage, pruner=make_pruner(self.pruner))
            # Through the storage: report() and should_prune() are methods of a Trial, which only study.ask() returns.
            trial_id = storage.get_trial_id_from_study_id_trial_number(
                storage.get_study_id_from_name(self.study), self.trial
            )
            storage.set_trial_intermediate_value(trial_id, self.num_validations, value)
            return study.pruner.prune(study, storage.get_trial(trial_id))
        except (optuna.exceptions.OptunaError, KeyError, OSError) as error:
            warnings.warn(f"the study in {self.storage} cannot be read: {error}", stacklevel=2)
            return False

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self.num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_validations = state_dict["num_validations"]
