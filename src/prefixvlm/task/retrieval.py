"""Retrieval by likelihood: images and captions go in; how often the right one is found comes out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.bootstrap import bootstrap_interval
from prefixvlm.metrics.retrieval import recall_items
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.task.captioning import Captioning
from prefixvlm.task.results.prediction import Prediction, Score, item_mean_score
from prefixvlm.task.rows.closed_set import likelihoods


class Retrieval(Captioning):
    """How likely every caption of the set is after every image: images x captions readings, so mind `limit`.

    captions_in_set: how many of an image's captions are candidates; null takes all.
    normalize_length: the mean over a caption's tokens, not the sum.
    """

    name = "retrieval"
    main_score = "image_to_text_recall_1"
    variant = "karpathy_recall; ties_against; likelihood"

    def __init__(
        self,
        prompt: str = "",
        captions_per_image: int = 1,
        captions_in_set: int | None = None,
        normalize_length: bool = True,
    ) -> None:
        super().__init__(prompt, captions_per_image)
        if captions_in_set is not None and captions_in_set < 1:
            raise ValueError(
                f"task.retrieval.captions_in_set is {captions_in_set}; set it to 1 or more, or null for all"
            )
        self.captions_in_set, self.normalize_length = captions_in_set, normalize_length
        self.decoding = {"method": "ranking", "normalize_length": normalize_length}
        self._candidates: list[str] = []
        self._owners: list[str] = []

    def prepare(self, samples: Callable[[], Iterable[Sample]]) -> None:
        pairs = [(sample.key, text) for sample in samples() for text in sample.captions[: self.captions_in_set]]
        if not pairs:
            raise ValueError("no sample has a caption, which task retrieval searches; choose another task")
        self._owners, self._candidates = [key for key, _ in pairs], [text for _, text in pairs]

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return float(prediction in references)

    def predict(self, model: PrefixLM, batch: Batch) -> list[Prediction]:
        """prediction: the likeliest caption; values: the likelihood of each caption of the set."""
        assert self._candidates, "prepare comes first"
        space = " " if self.prompt else ""
        scores = likelihoods(model, batch, self._candidates, self.prompt, self.normalize_length, space).numpy()
        return [
            replace(
                self.make_prediction(row, self._candidates[int(values.argmax())], values),
                correct=self._first(row, values),
            )
            for group, values in zip(batch.rows, scores, strict=True)
            for row in group
        ]

    def _first(self, row: Row, values: NDArray[np.floating]) -> float:
        """Whether one of the image's own captions is likelier than all others; ties count against it, as in `ranks`."""
        own = np.array([owner == row.key for owner in self._owners])
        return float(own.any() and (own.all() or values[own].max() > values[~own].max()))

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Recall at 1, 5 and 10 in percent, from images to captions and back."""
        values = np.stack([np.asarray(p.values) for p in predictions])
        place = {p.key: number for number, p in enumerate(predictions)}
        return recalls(predictions, values, [place[key] for key in self._owners])


def recalls(
    predictions: Sequence[Prediction], values: NDArray[np.floating], owners: Sequence[int], prefix: str = ""
) -> dict[str, Score]:
    """values: float[B, S], of each caption after each image. owners: whose each caption is.

    Intervals draw images with their captions, out of the same candidates.
    """
    scores = {}
    for name, items in recall_items(values, owners).items():
        if name.startswith("image"):
            scores[prefix + name] = item_mean_score(predictions, items)
        else:
            value, interval = sum(items) / len(items), bootstrap_interval(items, owners)
            scores[prefix + name] = Score(value, predictions, interval=interval, count=len(owners))
    return scores
