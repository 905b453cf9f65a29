"""LightningModule that predicts and scores the tasks of a trained module."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule

from prefixvlm.task.interface import Scorer, Task
from prefixvlm.training.module import PrefixModule
from prefixvlm.training.scoring import TaskScoring


class EvaluationModule(LightningModule):
    """Evaluates tasks of a PrefixModule, by default all; see TaskScoring for the arguments."""

    def __init__(
        self,
        module: PrefixModule,
        extra_scorers: Mapping[str, Sequence[Scorer]] | None = None,
        scored: bool = True,
        tasks: Mapping[str, Task] | None = None,
    ) -> None:
        super().__init__()
        self.model = module.model
        self.scoring = TaskScoring(module.tasks if tasks is None else tasks, extra_scorers, scored)

    def on_test_epoch_start(self) -> None:
        self.scoring.start(self.trainer.test_dataloaders)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.scoring.predict(self.model, batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        self.scoring.finish(self.trainer.test_dataloaders, self.trainer.num_test_batches, lambda name, value: None)
