"""Captioning: an image goes in, a sentence about it comes out; scored against the image's captions."""

import random
from collections.abc import Sequence
from typing import Any

from prefixvlm.batch import Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.captions import caption_scores
from prefixvlm.metrics.exact_match import exact_match
from prefixvlm.metrics.tokenizer import TOKENIZER
from prefixvlm.task.interface import Prediction, Task


class Captioning(Task):
    """The image, then the prompt, then the caption (ClipCap, Frozen: no prompt).

    captions_per_image: how many of an image's captions a training step takes, drawn at random.
    """

    name = "captioning"
    variant = f"exact_match_lowercase; coco_{TOKENIZER}_tokenizer"
    main_score = "exact_match"

    def __init__(self, prompt: str = "", captions_per_image: int = 1, decoding: dict[str, Any] | None = None) -> None:
        super().__init__(decoding)
        self.prompt = prompt
        self.captions_per_image = captions_per_image

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        captions = self._captions(sample)
        chosen = rng.sample(captions, min(self.captions_per_image, len(captions)))
        space = " " if self.prompt else ""
        return [Row((sample.image, self.prompt), space + caption, sample.key) for caption in chosen]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, self._captions(sample))]

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return exact_match([prediction], [references]) / 100

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """Exact match in percent; BLEU, ROUGE-L and CIDEr-D on the official tool's scale."""
        texts = {p.id: p.prediction for p in predictions}
        references = {p.id: p.references for p in predictions}
        exact = 100 * sum(p.correct for p in predictions) / len(predictions)
        return {"exact_match": exact, **caption_scores(texts, references).scores}

    def _captions(self, sample: Sample) -> tuple[str, ...]:
        if not sample.captions:
            raise ValueError(f"sample {sample.key!r} has no caption, which task captioning needs; choose task=vqa")
        return tuple(sample.captions)
