"""Captioning: an image goes in, a sentence about it comes out; scored against the image's captions."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from prefixvlm.batch import Row
from prefixvlm.data.sample import Sample
from prefixvlm.metrics.captions.bleu import bleu_of
from prefixvlm.metrics.captions.caption_scores import caption_scores, caption_variant
from prefixvlm.metrics.captions.diversity import diversity
from prefixvlm.metrics.captions.words import PTB, Words, words_of
from prefixvlm.metrics.exact_match import exact_match
from prefixvlm.task.interface import Task
from prefixvlm.task.results.prediction import Prediction, Score, by_group, corpus_score, group_names, item_mean_score


class Captioning(Task):
    """The image, then the prompt, then the caption (ClipCap, Frozen: no prompt).

    captions_per_image: how many of an image's captions a training step takes, drawn at random.
    """

    name = "captioning"
    variant = f"exact_match_lowercase; {caption_variant(PTB)}"
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
        references = self._captions(sample) if self.needs_references else sample.captions
        groups = group_names(sample.groups)
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, references, groups=groups)]

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return exact_match([prediction], [references]) / 100

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Exact match in percent; BLEU, ROUGE-L and CIDEr-D on the official tool's scale; diversity; CIDEr by group.

        A group's CIDEr has the document frequencies of the group alone, as nocaps has it for its domains.
        """
        scores = {"exact_match": item_mean_score(predictions, [100 * (p.correct or 0) for p in predictions])}
        words = _words(predictions)
        scores |= _official(predictions, words)
        for name, value in diversity([p.prediction for p in predictions], words).items():
            scores[name] = Score(value, predictions)
        for name, members in by_group(predictions).items():
            scores[f"cider_{name}"] = _official(members, words)["cider"]
        return scores

    def report(self, predictions: Sequence[Prediction]) -> dict[str, Any]:
        """Its variant says whether words or characters were compared."""
        report = super().report(predictions)
        compared = caption_variant(_words(predictions))
        return report | {"variant": report["variant"].replace(caption_variant(PTB), compared)}

    def _captions(self, sample: Sample) -> tuple[str, ...]:
        if not sample.captions:
            raise ValueError(
                f"sample {sample.key!r} has no caption, which task captioning needs; set task=vqa or submission=FILE"
            )
        return tuple(sample.captions)


def _words(predictions: Sequence[Prediction]) -> Words:
    return words_of(p.references for p in predictions)


def _official(predictions: Sequence[Prediction], words: Words) -> dict[str, Score]:
    texts, references = {p.id: p.prediction for p in predictions}, {p.id: p.references for p in predictions}
    result = caption_scores(texts, references, words=words)
    statistics = np.array(result.bleu_statistics)
    names = [f"bleu_{order}" for order in range(1, 5)]
    scores = corpus_score(
        predictions, lambda draw: dict(zip(names, bleu_of(statistics[draw].sum(0).tolist()), strict=True))
    )
    return scores | {name: item_mean_score(predictions, result.per_item[name]) for name in ("rouge_l", "cider")}
