"""Consensus re-ranking: of the captions that a beam search found, the one most like captions of similar images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from prefixvlm.batch import Batch
from prefixvlm.data.image import decode_image
from prefixvlm.data.shards.resolve import resolve_shards
from prefixvlm.encoder.mean_features import mean_of
from prefixvlm.features.captioned import captioned_features
from prefixvlm.metrics.captions.ngram_ridge import NGramRidge
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import PositiveFloat, check_value

INSTEAD = (
    "set task.captioning.consensus.shards to training shards, or for a prediction the decoding option method=beam, "
    "which gives the likeliest caption"
)


class Consensus:
    """Chooses among the captions of an image by the captions of training images (Devlin et al. 2015).

    Devlin et al. choose the caption that is most like those of the nearest images; here a ridge regression on the
    image's features weights all training images; see NGramRidge. It is fitted at the first choice, on the train split.
    shards: a folder of shards with images and captions, or a pattern; features only if the model reads those.
    ridge: strength of the regularization, for features with L2 norm 1.
    """

    def __init__(self, shards: str, ridge: PositiveFloat = 1.0) -> None:
        if not isinstance(shards, str) or "://" in shards:
            raise ValueError(f"task.captioning.consensus.shards is {shards!r}; give one folder or pattern on this disk")
        check_value("task.captioning.consensus.ridge", ridge, PositiveFloat)
        self.shards, self.ridge = shards, ridge
        self._scorer: NGramRidge | None = None

    def __getstate__(self) -> dict[str, Any]:
        # The workers of loaders get a copy of the task, and choose nothing.
        return self.__dict__ | {"_scorer": None}

    def paths(self) -> list[Path]:
        """Return the shards of the train split. Raises ValueError if they are missing."""
        return resolve_shards(self.shards, "train", INSTEAD)

    def choose(self, model: PrefixLM, batch: Batch, candidates: Sequence[Sequence[str]]) -> list[str]:
        """Return one of the candidates of each row; the first one of a row without an image.

        The image of a row is its last one. Raises ValueError if the training shards are missing or lack captions,
        or if the encoder is trained.
        """
        if self._scorer is None:
            self._scorer = self._fit(model, batch.input_ids.device)
        with torch.no_grad():
            features = mean_of(model.features(batch.pixel_values)) if len(batch.pixel_values) else batch.pixel_values
        chosen = []
        for images, texts in zip(batch.runs_of_rows(), candidates, strict=True):
            best = 0
            if len(images) and len(texts) > 1:
                scores = self._scorer.scores(features[images[-1]], texts)
                best = scores.index(max(scores))
            chosen.append(texts[best])
        return chosen

    def _fit(self, model: PrefixLM, device: torch.device) -> NGramRidge:
        if model.encoder.trained:
            raise ValueError(
                "task.captioning.consensus needs features that stay as they are: set encoder.trained=false"
            )
        what = "encoding training images for the consensus"
        features, captions = captioned_features(model.encoder, self.paths(), decode_image, what, device)
        if not captions:
            raise ValueError(f"no training image of {self.shards} has a caption; set task.captioning.consensus=null")
        return NGramRidge(features, captions, self.ridge)
