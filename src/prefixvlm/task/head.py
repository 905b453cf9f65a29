"""Base class of tasks with a trained head on the hidden states of the language model."""

from typing import Any

import torch
from torch import Tensor, nn

from prefixvlm.batch import Batch, Row
from prefixvlm.model.head import Outputs, RowHead
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.interface import MAX_ROWS, Task
from prefixvlm.task.results.prediction import Prediction


class HeadTask(Task):
    """A task whose predictions come from the outputs of a head instead of generated text.

    Subclasses set num_outputs, and define rows with head_targets, `loss` and `to_prediction`.
    prompt: text after the image. hidden_width: width of an MLP head, None for a linear head.
    pooling: "last" for the hidden state of the last token of a row, "mean" for the mean over its tokens.
    """

    has_head = True
    head_options: tuple[str, ...] = ("hidden_width", "pooling")
    num_outputs: int

    def __init__(
        self, prompt: str = "", hidden_width: int | None = None, dropout: float = 0.0, pooling: str = "last"
    ) -> None:
        self.prompt, self.hidden_width, self.dropout, self.pooling = prompt, hidden_width, dropout, pooling
        self.decoding: dict[str, Any] = {"method": "head", "pooling": pooling}

    def head(self, state_width: int, lm_width: int, feature_width: int) -> nn.Module:
        return RowHead(Outputs(state_width, self.num_outputs, self.hidden_width, self.dropout), self.pooling)

    def losses(self, model: PrefixLM, batch: Batch) -> Tensor:
        assert batch.head_targets is not None, "every row of this task has head_targets"
        return self.loss(model.heads[self.name](model, batch), batch.head_targets, model.smoothing)

    @torch.no_grad()
    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        return [
            self.to_prediction(row, outputs)
            for part in batch.split(MAX_ROWS)
            for rows, outputs in zip(part.rows, model.heads[self.name](model, part).tolist(), strict=True)
            for row in rows
        ]

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the loss of each row, float32[S]. outputs: float32[S, K]. targets: float32[S, K']."""
        raise TypeError(f"{type(self).__name__} does not define loss")

    def to_prediction(self, row: Row, outputs: list[float]) -> Prediction:
        """Return the prediction of a row from its K outputs."""
        raise TypeError(f"{type(self).__name__} does not define to_prediction")
