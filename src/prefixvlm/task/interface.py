"""What a task is: samples in, rows of text for the model out; predictions in, scores out."""

import inspect
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.model import decoding
from prefixvlm.model.clipcap_beam import clipcap_beam
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.results.prediction import Prediction, Score, by_group, item_mean_score

METHODS: dict[str, Callable[..., list[list[int]]]] = {
    "greedy": decoding.greedy,
    "beam": decoding.beam,
    "clipcap_beam": clipcap_beam,
    "nucleus": decoding.nucleus,
}

MAX_ROWS = 512  # that are read and generated at once: what they remember must fit


class Task:
    """One way to use the model. Subclasses set the names below and define rows and `correct`.

    decoding: {method: greedy | beam | clipcap_beam
    | nucleus, that function's keywords, stop: texts at which an answer is cut}.
    needs_references: False where predictions are only written, as for a test server.
    """

    name: str
    variant: str  # how predictions are compared with references; stands beside every score
    main_score: str  # the score whose items are `correct`
    needs_references = True
    covers_every_sample = True  # whether every sample has rows for it
    head_options: tuple[str, ...] = ()  # the options that say what a trained head's numbers mean
    has_head = False  # whether it reads hidden states, by a head that is trained, in the place of text
    judges: Sequence[Callable[[Sequence[Prediction]], dict[str, Score]]] = ()  # each adds scores of its own

    def __init__(self, decoding: dict[str, Any] | None = None) -> None:
        self.decoding = {"method": "greedy", "max_new_tokens": 32, "stop": ["\n"], **(decoding or {})}
        method = self.decoding["method"]
        if method not in METHODS:
            raise ValueError(f"task.{self.name}.decoding.method is {method!r}; accepted are {', '.join(METHODS)}")
        # A task has one text a row, so no num_samples.
        accepted = {"stop", *inspect.signature(METHODS[method]).parameters} - {"model", "batch", "num_samples"}
        if unknown := self.decoding.keys() - accepted - {"method"}:
            raise ValueError(
                f"task.{self.name}.decoding.{min(unknown)} is not an option of {method} decoding; "
                f"accepted are {', '.join(sorted(accepted))}"
            )
        stop = self.decoding["stop"]
        if not isinstance(stop, list | tuple) or not all(isinstance(each, str) and each for each in stop):
            raise ValueError(f"task.{self.name}.decoding.stop is {stop!r}; give a list of texts, or [] for none")

    def head(self, state_width: int, lm_width: int, feature_width: int) -> nn.Module | None:
        """What is trained for this task besides the mapper."""
        return None

    def check(self, lm: LanguageModel, max_target_length: int | None) -> None:
        """Raises ValueError, before training, where the language model cannot be taught this task so."""

    def losses(self, model: PrefixLM, batch: Batch) -> Tensor:
        """What training lessens, of each thing that is supervised: float32[number of them]."""
        return model(batch)

    def prepare(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """What a task must know of all samples before it is evaluated on them; their images are black here."""

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        """Rows with targets, chosen by rng where a sample offers more than one."""
        raise ValueError(f"task {self.name} is for evaluation only; train with another task")

    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Rows to be answered, each with its references. Their images are sample.image and the support's."""
        raise TypeError(f"{type(self).__name__} does not define prompt_rows")

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """How right one prediction is, 0 to 1."""
        raise TypeError(f"{type(self).__name__} does not define correct")

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """All scores over predictions that have references; here the main one in percent, over all and by group."""
        groups = {self.main_score: list(predictions)}
        groups |= {f"{self.main_score}_{name}": members for name, members in by_group(predictions).items()}
        return {
            name: item_mean_score(members, [100 * (p.correct or 0) for p in members])
            for name, members in groups.items()
        }

    def generate(self, model: PrefixLM, batch: Batch) -> list[str]:
        """The model's text for each of the S rows of the batch."""
        keywords = {name: value for name, value in self.decoding.items() if name not in ("method", "stop")}
        ids = METHODS[self.decoding["method"]](model, batch, **keywords)
        texts = model.lm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [cut(text.strip(), self.decoding["stop"]) for text in texts]

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """One Prediction for each of the prompt_rows that the batch was collated from."""
        return [
            self.make_prediction(row, text)
            for part in batch.split(MAX_ROWS)
            for rows, text in zip(part.rows, self.generate(model, part), strict=True)
            for row in rows
        ]

    def finalize(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The predictions with what only all of them together tell."""
        return list(predictions)

    def make_prediction(
        self, row: Row, text: str, values: Sequence[float] | None = None, ended: bool = True
    ) -> Prediction:
        """The Prediction of a row. ended: whether the text is whole; one that was cut off is not correct."""
        correct = ended * self.correct(text, row.references) if row.references else None
        context = "".join(part for part in row.context if isinstance(part, str))
        return Prediction(
            self.name, row.key, row.id, row.text, text, row.references, correct, row.groups, values, context
        )

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Scores with what one must know to compare them; `items`: what each prediction adds to a score."""
        known = [p for p in predictions if p.correct is not None]
        scores = self.scores(known) if known else {}
        for judge in self.judges if known else ():
            scores |= judge(known)
        items: dict[str, dict[str, float]] = {}
        for name, score in scores.items():
            if len(score.predictions) == len(known):
                for p, item in zip(known, score.items, strict=bool(score.items)):
                    items.setdefault(p.id, {})[name] = item
        return {
            "scores": {name: score.value for name, score in scores.items()},
            "intervals": {name: score.interval for name, score in scores.items() if score.interval},
            "counts": {name: score.count or len(score.predictions) for name, score in scores.items()},
            "items": items,
            "num_items": len(predictions),
            "num_unscored": len(predictions) - len(known),
            "num_images": len({p.key for p in predictions}),
            "prompt": getattr(self, "prompt", None),
            "example_context": predictions[0].context if predictions else "",
            "decoding": self.decoding,
            "variant": self.variant,
        }


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stops."""
    return min((text.split(each, 1)[0] for each in stop), key=len, default=text).strip()
