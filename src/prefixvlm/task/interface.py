"""What a task is: samples in, rows of text for the model out; predictions in, scores out."""

import inspect
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.bootstrap import bootstrap_interval
from prefixvlm.model import decoding
from prefixvlm.model.prefix_lm import PrefixLM

METHODS: dict[str, Callable[..., list[list[int]]]] = {
    "greedy": decoding.greedy,
    "beam": decoding.beam,
    "nucleus": decoding.nucleus,
}

MAX_ROWS = 512  # that are read and generated at once: what they remember must fit


@dataclass(frozen=True)
class Prediction:
    """What the model said to one row. correct: 0 to 1."""

    task: str
    key: str
    id: str
    prompt: str
    prediction: str
    references: tuple[str, ...]
    correct: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "references": list(self.references)}


class Task:
    """One way to use the model. Subclasses set `name` and `variant` and define rows, correct and scores.

    decoding: {method: greedy | beam | nucleus, and that function's keywords}.
    """

    name: str
    variant: str  # how predictions are compared with references; stands beside every score
    main_score: str  # the score whose items are `correct`

    def __init__(self, decoding: dict[str, Any] | None = None) -> None:
        self.decoding = {"method": "greedy", "max_new_tokens": 32, **(decoding or {})}
        method = self.decoding["method"]
        if method not in METHODS:
            raise ValueError(f"task.{self.name}.decoding.method is {method!r}; accepted are {', '.join(METHODS)}")
        # A task has one text a row, so no num_samples.
        accepted = {*inspect.signature(METHODS[method]).parameters} - {"model", "batch", "num_samples"}
        if unknown := self.decoding.keys() - accepted - {"method"}:
            raise ValueError(
                f"task.{self.name}.decoding.{min(unknown)} is not an option of {method} decoding; "
                f"accepted are {', '.join(sorted(accepted))}"
            )

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        """Rows with targets, chosen by rng where a sample offers more than one."""
        raise TypeError(f"{type(self).__name__} does not define training_rows")

    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Rows to be answered, each with its references."""
        raise TypeError(f"{type(self).__name__} does not define prompt_rows")

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """How right one prediction is, 0 to 1."""
        raise TypeError(f"{type(self).__name__} does not define correct")

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """All scores over all predictions."""
        raise TypeError(f"{type(self).__name__} does not define scores")

    def counts(self, predictions: Sequence[Prediction]) -> dict[str, int]:
        """Over how many predictions a score is, where not over all."""
        return {}

    def generate(self, model: PrefixLM, batch: Batch) -> list[str]:
        """The model's text for each of the S rows of the batch."""
        keywords = {name: value for name, value in self.decoding.items() if name != "method"}
        ids = METHODS[self.decoding["method"]](model, batch, **keywords)
        return [text.strip() for text in model.lm.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """One Prediction for each of the prompt_rows that the batch was collated from."""
        return [
            Prediction(self.name, row.key, row.id, row.text, text, row.references, self.correct(text, row.references))
            for part in batch.split(MAX_ROWS)
            for rows, text in zip(part.rows, self.generate(model, part), strict=True)
            for row in rows
        ]

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Scores with what one must know to compare them."""
        keys = [p.key for p in predictions]
        return {
            "scores": self.scores(predictions),
            # Questions about one image are right and wrong together, so images are drawn, not questions.
            "intervals": {self.main_score: list(bootstrap_interval([100 * p.correct for p in predictions], keys))},
            "num_items": len(predictions),
            "counts": self.counts(predictions),
            "num_images": len(set(keys)),
            "decoding": self.decoding,
            "variant": self.variant,
        }
