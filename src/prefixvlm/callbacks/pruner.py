"""Validation values go in, to the study of a sweep; a run that is worse than the others comes out early."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.sweep.study import import_optuna, make_pruner, open_storage


class Pruner(Callback):
    """Reports `monitor` after each validation, and stops the run if the study's pruner says so: then `pruned` is True.

    storage, study, trial: where the study is kept, its name, and the number of the trial that this run is. Only the
    first process asks; the others hear of it. Without its storage a run goes on to its end.
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
        self.pruned = trainer.strategy.broadcast(trainer.is_global_zero and self._is_hopeless(value), src=0)
        if self.pruned:
            trainer.should_stop = True

    def _is_hopeless(self, value: float) -> bool:
        optuna = import_optuna()
        try:
            storage = open_storage(self.storage)
            study = optuna.load_study(study_name=self.study, storage=storage, pruner=make_pruner(self.pruner))
            number = storage.get_trial_id_from_study_id_trial_number(
                storage.get_study_id_from_name(self.study), self.trial
            )
            storage.set_trial_intermediate_value(number, self.num_validations, value)
            return study.pruner.prune(study, storage.get_trial(number))
        except (optuna.exceptions.OptunaError, KeyError, OSError) as error:
            warnings.warn(f"the study in {self.storage} cannot be asked: {error}", stacklevel=2)
            return False

    def state_dict(self) -> dict[str, Any]:
        return {"num_validations": self.num_validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.num_validations = state_dict["num_validations"]
