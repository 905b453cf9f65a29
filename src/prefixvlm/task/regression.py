"""Regression by a head: predict a number, such as an area, scored by absolute and squared error and R^2."""

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
from prefixvlm.options.ranges import BelowOne, PositiveFloat, Size
from prefixvlm.task.head import HeadTask
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, item_mean_score

LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "huber": F.huber_loss}


class Regression(HeadTask):
    """Predicts a number by a head on the hidden states of the image and the prompt.

    value: key of the number in a sample's `values`. mean, std: approximate mean and standard deviation of the number in
    the training split; the head learns (number - mean) / std. loss: "mse", or "huber", which is linear beyond one std.
    """

    name = "regression"
    main_score = "mae"
    score_kinds = {  # noqa: RUF012
        "mae": ERROR, "rmse": ERROR, "r2": RATIO, "mae_of_the_mean": replace(ERROR, of_images=False),
    }  # fmt: skip
    shown_as = "numbers"
    variant = "head"
    num_outputs = 1
    head_options = ("mean", "std", *HeadTask.head_options)

    def __init__(
        self,
        value: str,
        mean: float = 0.0,
        std: PositiveFloat = 1.0,
        loss: str = "mse",
        prompt: str = "",
        hidden_width: Size | None = None,
        dropout: BelowOne = 0.0,
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
        """Return one row. Samples without the value have no target and no reference."""
        truth = tuple(sample.values[name] for name in (self.value,) if name in sample.values)
        references = tuple(_format_number(value) for value in truth)
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, references, head_targets=truth)]

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        return self.error(outputs, targets, reduction="none")[:, 0]

    def to_prediction(self, row: Row, outputs: list[float]) -> Prediction:
        """Return the prediction of a row. values: the predicted number, then the true one if it is known."""
        value = outputs[0] * self.std + self.mean
        return self.make_prediction(row, _format_number(value), [value, *row.head_targets])

    def with_output(self, prediction: Prediction, other: Prediction) -> Prediction:
        given = super().with_output(prediction, other)
        return replace(given, values=[*(other.values or ())[:1], *(prediction.values or ())[1:]])

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """Return 1 for an error of up to a tenth of `std`, else 0. Only the report uses it, no score."""
        return float(abs(float(prediction) - float(references[0])) <= 0.1 * self.std)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return MAE, RMSE, R^2, and the MAE of a constant prediction of the true mean."""
        predicted, truth = np.array([p.values for p in predictions], dtype=np.float64).T
        errors = np.abs(predicted - truth)
        scores = {"mae": item_mean_score(predictions, errors.tolist())}
        scores |= corpus_score(predictions, lambda draw: _corpus_errors(predicted[draw], truth[draw]))
        scores["mae_of_the_mean"] = item_mean_score(predictions, np.abs(truth - truth.mean()).tolist())
        return scores


def _format_number(value: float) -> str:
    """Format a number with six significant digits, or as an integer if that has more digits."""
    # Format .6g would write 1234567 as 1.23457e+06.
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"


def _corpus_errors(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    """Return RMSE and R^2, which is 0 if all true values are the same."""
    # The sum of squares alone may not be 0 for equal values, because their mean is rounded.
    spread = ((truth - truth.mean()) ** 2).sum() if np.ptp(truth) else 0.0
    squared = (predicted - truth) ** 2
    return {"rmse": float(np.sqrt(squared.mean())), "r2": float(1 - squared.sum() / spread) if spread else 0.0}
