"""Retrieval by the likelihood of every caption after every image, scored by recall."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prefixvlm.batch import Batch
from prefixvlm.data.sample import Sample
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Positive
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.prediction import Prediction, Score
from prefixvlm.task.results.recall import RECALL_KINDS, recalls
from prefixvlm.task.rows.closed_set import likelihoods


class Retrieval(Captioning):
    """Ranks captions by their likelihood after an image, and images by the likelihood of a caption after them.

    This takes images x captions forward passes: set `limit` in an evaluation.
    captions_in_set: number of captions per image that are candidates; None for all.
    normalize_length: use the mean over the tokens of a caption instead of the sum, which favours short captions.
    """

    name = "retrieval"
    main_score = "image_to_text_recall_1"
    variant = "karpathy_recall; ties_against; likelihood"
    takes = ""

    def __init__(
        self,
        prompt: str = "",
        captions_per_image: Positive = 1,
        captions_in_set: Positive | None = None,
        normalize_length: bool = True,
    ) -> None:
        super().__init__(prompt, captions_per_image)
        if captions_in_set is not None and captions_in_set < 1:
            raise ValueError(
                f"task.retrieval.captions_in_set is {captions_in_set}; set it to 1 or more, or null for all"
            )
        self.captions_in_set, self.normalize_length = captions_in_set, normalize_length
        self.score_kinds = RECALL_KINDS
        self.decoding = {"method": "ranking", "normalize_length": normalize_length}
        self._candidates: list[str] = []
        self._owners: list[str] = []  # the key of each candidate's image

    def prepare(self, samples: Callable[[], Iterable[Sample]]) -> None:
        pairs = [(sample.key, text) for sample in samples() for text in sample.captions[: self.captions_in_set]]
        if not pairs:
            raise ValueError("no sample has a caption, which task retrieval searches; choose another task")
        self._owners, self._candidates = [key for key, _ in pairs], [text for _, text in pairs]

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """Return the likeliest caption for each image. values: log-likelihood of each candidate."""
        assert self._candidates, "prepare is called before predict"
        space = " " if self.prompt else ""
        scores = likelihoods(model, batch, self._candidates, self.prompt, self.normalize_length, space).numpy()
        return [
            replace(
                self.make_prediction(row, self._candidates[int(values.argmax())], values),
                correct=self._first(row.key, values),
            )
            for group, values in zip(batch.rows, scores, strict=True)
            for row in group
        ]

    def _first(self, key: str, values: NDArray[np.floating]) -> float:
        """Return 1 if a caption of the image is likelier than all others, else 0."""
        # Ties count as errors, as in `ranks`: a model with the same likelihood for all captions must not score 100 %.
        own = np.array([owner == key for owner in self._owners])
        return float(own.any() and (own.all() or values[own].max() > values[~own].max()))

    def with_output(self, prediction: Prediction, other: Prediction) -> Prediction:
        values = np.asarray(other.values)
        return replace(super().with_output(prediction, other), correct=self._first(prediction.key, values))

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return recall at 1, 5 and 10 in percent, from images to captions and back."""
        values = np.stack([np.asarray(p.values) for p in predictions])
        place = {p.key: number for number, p in enumerate(predictions)}
        return recalls(predictions, values, [place[key] for key in self._owners])
