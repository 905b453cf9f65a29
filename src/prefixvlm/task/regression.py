"""Regression by a head: a number of an image, such as an area, scored by its error and R^2."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from prefixvlm.batch import Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.score_kind import ERROR, RATIO
from prefixvlm.task.head import HeadTask
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, item_mean_score

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "huber": F.huber_loss}


class Regression(HeadTask):
    """The image, then the prompt; a head predicts a number.

    value: which of a sample's `values` is the number. mean, std: of that number over the training split, approximately;
    the head learns (number - mean) / std. loss: mse, or huber, which is linear beyond one std.
    """

    name = "regression"
    main_score = "mae"
    score_kinds = {"mae": ERROR, "rmse": ERROR, "r2": RATIO}  # noqa: RUF012
    shown_as = "numbers"
    variant = "head"
    num_outputs = 1
    head_options = ("mean", "std", *HeadTask.head_options)

    def __init__(
        self,
        value: str,
        mean: float = 0.0,
        std: float = 1.0,
        loss: str = "mse",
        prompt: str = "",
        hidden_width: int | None = None,
        dropout: float = 0.0,
        pooling: str = "last",
    ) -> None:
        super().__init__(prompt, hidden_width, dropout, pooling)
        if loss not in LOSSES:
            raise ValueError(f"task.regression.loss is {loss!r}; accepted are {', '.join(LOSSES)}")
        if std <= 0:
            raise ValueError(f"task.regression.std is {std}; set it above 0")
        self.value, self.mean, self.std, self.error = value, mean, std, LOSSES[loss]

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        return [replace(row, head_targets=tuple((value - self.mean) / self.std for value in row.head_targets))
                for row in self.prompt_rows(sample) if row.head_targets]  # fmt: skip

    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Samples without the value are predicted, but neither scored nor trained on."""
        truth = tuple(sample.values[name] for name in (self.value,) if name in sample.values)
        references = tuple(_format_number(value) for value in truth)
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, references, head_targets=truth)]

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return self.error(outputs, targets, reduction="none")[:, 0]

    def to_prediction(self, row: Row, outputs: list[float]) -> Prediction:
        """values: the predicted number, then the true one where it is known."""
        value = outputs[0] * self.std + self.mean
        return self.make_prediction(row, _format_number(value), [value, *row.head_targets])

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """A number is never simply right; in the report an error of up to a tenth of `std` counts as such."""
        return float(abs(float(prediction) - float(references[0])) <= 0.1 * self.std)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Mean absolute error, root of the mean square error, R^2, and the error of always predicting the true mean."""
        predicted, truth = np.array([p.values for p in predictions], dtype=np.float64).T
        errors = np.abs(predicted - truth)
        scores = {"mae": item_mean_score(predictions, errors.tolist())}
        scores |= corpus_score(predictions, lambda draw: _corpus_errors(predicted[draw], truth[draw]))
        scores["mae_of_the_mean"] = item_mean_score(predictions, np.abs(truth - truth.mean()).tolist())
        return scores


def _format_number(value: float) -> str:
    """With six significant digits, or all digits before the point where these are more."""
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"


def _corpus_errors(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    """R^2 is 0 where all truths are the same."""
    spread = ((truth - truth.mean()) ** 2).sum() if np.ptp(truth) else 0.0
    squared = (predicted - truth) ** 2
    return {"rmse": float(np.sqrt(squared.mean())), "r2": float(1 - squared.sum() / spread) if spread else 0.0}
