"""Base class of tasks: rows of text from samples, predictions from the model, and their scores."""

import copy
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from torch import Tensor, nn

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.data.schema import Box
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.metrics.score_kind import PERCENT, ScoreKind, kind_of
from prefixvlm.model import generation
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.results.prediction import Prediction, Score, by_group, item_mean_score
from prefixvlm.task.results.report import report_of

MAX_ROWS = 512  # rows decoded at once: the KV cache must fit in memory

Scorer = Callable[[Sequence[Prediction]], dict[str, Score]]
FoundBox = tuple[Box, float | None]  # a box and its confidence


class Task(ABC):
    """A way to use the model. Subclasses set the attributes below and define at least prompt_rows.

    name: default name; a run names its tasks by their keys in the configuration. variant: definition of the scores,
        reported with them, because scores of different variants are not comparable.
    main_score: name of the main score, by default the mean of `correct`. score_kinds: direction and digits of scores by
        name; they also apply to the score of a group, named SCORE_GROUP.
    takes: input of `prefixvlm predict` besides the image: "question", "phrase" or "text"; "image" for none, "" if the
        task needs more than one image. turn_by_turn: each of several inputs has the previous ones, and the answers to
        them, as context.
    shown_as: how the report shows predictions: "text", "boxes", "tags" or "numbers".
    has_head: predict with a trained head instead of generating text. head_options: names of the options that the
        meaning of the head's outputs depends on.
    covers_every_sample: every sample has rows of the task. reads_image: False for a task on text alone.
    decoding: {method: greedy | beam | clipcap_beam | nucleus, keywords of that function, stop: texts before which an
        answer is truncated}.
    """

    name: str
    variant: str
    main_score: str
    score_kinds: Mapping[str, ScoreKind]
    takes = "image"
    turn_by_turn = False
    shown_as = "text"
    has_head = False
    head_options: tuple[str, ...] = ()
    covers_every_sample = True
    reads_image = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "score_kinds" not in vars(cls) and "main_score" in vars(cls):
            cls.score_kinds = {cls.main_score: PERCENT}

    def __init__(self, decoding: dict[str, Any] | None = None) -> None:
        self.decoding = {**generation.DEFAULT, **(decoding or {})}
        generation.check_options(f"task.{self.name}.decoding", self.decoding)

    def renamed(self, name: str) -> Self:
        """Return a copy of this task under another name."""
        task = copy.copy(self)
        task.name = name
        return task

    def with_decoding(self, **changes: Any) -> Self:
        """Return a copy of this task with other decoding options, or this task if none are given.

        Raises ValueError as the constructor does, and for a task that does not generate freely.
        """
        if not changes:
            return self
        if not self.generates:
            method = self.decoding["method"]
            raise ValueError(f"task {self.name} predicts by {method} and has no decoding options; leave them out")
        task = copy.copy(self)
        task.decoding = generation.changed_options("decoding", self.decoding, changes)
        return task

    @property
    def generates(self) -> bool:
        """Whether predictions are generated texts: not classes, boxes or answers of a closed set."""
        return self.decoding["method"] in generation.METHODS and not self.has_head

    def head(self, state_width: int, lm_width: int, feature_width: int) -> nn.Module | None:
        """Return the head of this task, which is trained besides the mapper; None without one."""
        return None

    def check(self, lm: LanguageModel, max_target_length: int | None) -> None:
        """Raise ValueError if the task does not work with this language model. Called before training."""

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        """Return rows with targets, drawn by rng if a sample offers several."""
        raise ValueError(f"task {self.name} is for evaluation only; train with another task")

    def losses(self, model: PrefixLM, batch: Batch) -> Tensor:
        """Return the training loss of each supervised element: float32[number of elements]."""
        return model(batch)

    def prepare(self, samples: Callable[[], Iterable[Sample]]) -> None:
        """Collect what the task needs from all samples before it predicts. The images are black here."""

    @abstractmethod
    def prompt_rows(self, sample: Sample) -> list[Row]:
        """Return rows to predict, with their references. Their images are sample.image and those of its support."""

    def check_references(self, sample: Sample) -> None:
        """Raise ValueError if a sample lacks references. Called only if the predictions are scored."""

    def request(self, key: str, image: Any, texts: Sequence[str] = (), answers: Sequence[str] = ()) -> Sample:
        """Return a sample, without references, for an image of a user.

        texts: questions, phrases or a text, by `takes`. answers: of turn_by_turn tasks, to all texts but the last.
        """
        return Sample(key, image)

    def generate(self, model: PrefixLM, batch: Batch) -> list[str]:
        """Return the generated text of each of the S rows of the batch."""
        return generation.generate(model, batch, self.decoding)

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """Return one Prediction for each of the prompt_rows that the batch was collated from."""
        return [
            self.make_prediction(row, text)
            for part in batch.split(MAX_ROWS)
            for rows, text in zip(part.rows, self.generate(model, part), strict=True)
            for row in rows
        ]

    def finalize(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """Return the final predictions, given those of all ranks."""
        return list(predictions)

    def make_prediction(
        self, row: Row, text: str, values: Sequence[float] | None = None, ended: bool = True
    ) -> Prediction:
        """Return the Prediction of a row. ended: False for a text without EOS, which is not correct."""
        correct = ended * self.correct(text, row.references) if row.references else None
        context = "".join(part for part in row.context if isinstance(part, str))
        given = row.key, row.id, row.text, text, row.references, correct, row.groups, values, context
        return Prediction(self.name, *given)

    def shuffle_group(self, prediction: Prediction) -> Hashable | None:
        """Return what predictions share that exchange outputs in the shuffled baseline; None for no such baseline."""
        return prediction.prompt

    def with_output(self, prediction: Prediction, other: Prediction) -> Prediction:
        """Return the prediction as if the model had given it the output of another."""
        correct = self.correct(other.prediction, prediction.references) if prediction.references else None
        return replace(prediction, prediction=other.prediction, values=other.values, correct=correct)

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        """Return how correct a prediction is, 0 to 1; by default whether it is one of the references."""
        return float(prediction in references)

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return all scores of predictions with references; by default the main one, in percent, also by group."""
        groups = {self.main_score: list(predictions)}
        groups |= {f"{self.main_score}_{name}": members for name, members in by_group(predictions).items()}
        return {
            name: item_mean_score(members, [100 * (p.correct or 0) for p in members])
            for name, members in groups.items()
        }

    def report(self, predictions: Sequence[Prediction], extra_scorers: Sequence[Scorer] = ()) -> dict[str, Any]:
        """Return scores, also those of extra_scorers, and what is needed to compare them; see report_of."""
        known = [p for p in predictions if p.correct is not None]
        scores = self.scores(known) if known else {}
        for scorer in extra_scorers if known else ():
            scores |= scorer(known)
        details = {p.id: data for p in predictions if (data := self.details(p))}
        return report_of(predictions, scores, lambda name: kind_of(name, self.score_kinds) or PERCENT, details) | {
            "prompt": getattr(self, "prompt", None),
            "decoding": self.decoding,
            "variant": self.variant,
            "shown_as": self.shown_as,
        }

    def format(self, prediction: Prediction, size: tuple[int, int], asked: str = "") -> str:
        """Return a line for `prefixvlm predict`. size: width and height of the image. asked: the text, by `takes`."""
        return " ".join(prediction.prediction.splitlines())

    def probabilities(self, prediction: Prediction) -> dict[str, float] | None:
        """Return the probability of each class; None for a task without classes."""
        return None

    def boxes(self, prediction: Prediction) -> list[FoundBox] | None:
        """Return the predicted boxes to draw; None for a task without boxes."""
        return None

    def details(self, prediction: Prediction) -> dict[str, Any]:
        """Return JSON data that the report shows instead of the text, by `shown_as`."""
        return {}
