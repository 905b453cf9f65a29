"""Image captioning, scored against the reference captions."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Self

from prefixvlm.batch import Batch, Row
from prefixvlm.data.sample import Sample
from prefixvlm.lm.interface import LanguageModel
from prefixvlm.metrics.captions.caption_scores import CocoCaptionMetrics, Diversity, caption_variant
from prefixvlm.metrics.captions.interface import CaptionMetric
from prefixvlm.metrics.captions.words import PTB, Words, words_of
from prefixvlm.metrics.exact_match import exact_match, normalise
from prefixvlm.metrics.score_kind import PERCENT, ScoreKind
from prefixvlm.model.generation import generate_beams
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.options.ranges import Positive
from prefixvlm.task.interface import Task
from prefixvlm.task.results.consensus import Consensus
from prefixvlm.task.results.prediction import (
    Prediction,
    Score,
    by_group,
    corpus_score,
    group_names,
    item_mean_score,
)

COCO = CocoCaptionMetrics()


class Captioning(Task):
    """Captions an image: the image, then the prompt, then the caption (ClipCap; Frozen without a prompt).

    captions_per_image: number of captions of an image that a training step uses, drawn at random.
    metrics: caption metrics besides the official ones, under any names.
    consensus: chooses among the beams of decoding.method=beam; None for the likeliest one.
    """

    name = "captioning"
    variant = f"exact_match_lowercase; {caption_variant(PTB)}"
    main_score = "exact_match"

    def __init__(
        self,
        prompt: str = "",
        captions_per_image: Positive = 1,
        metrics: Mapping[str, CaptionMetric] | None = None,
        decoding: dict[str, Any] | None = None,
        consensus: Consensus | None = None,
    ) -> None:
        super().__init__(decoding)
        if consensus and self.decoding["method"] != "beam":
            raise ValueError(
                f"task.captioning.consensus chooses among beams, but decoding.method is {self.decoding['method']}; "
                "set task.captioning.decoding.method=beam, or task.captioning.consensus=null"
            )
        self.prompt, self.consensus = prompt, consensus
        self.captions_per_image = captions_per_image
        self.metrics = [COCO, Diversity(), *(metrics or {}).values()]
        self.variant = "; ".join([type(self).variant, *(each.variant for each in (metrics or {}).values())])
        self.score_kinds: Mapping[str, ScoreKind] = {self.main_score: PERCENT}
        for metric in self.metrics:
            self.score_kinds |= metric.score_kinds

    def check(self, lm: LanguageModel, max_target_length: int | None) -> None:
        """Raise ValueError also if the shards of the consensus are missing, which would show only after an epoch."""
        super().check(lm, max_target_length)
        if self.consensus:
            self.consensus.paths()

    def with_decoding(self, **changes: Any) -> Self:
        """Return a copy as Task does. A stated method is used as it is, without the consensus."""
        task = super().with_decoding(**changes)
        if "method" in changes:
            task.consensus = None
        return task

    def training_rows(self, sample: Sample, rng: random.Random) -> list[Row]:
        self.check_references(sample)
        chosen = rng.sample(tuple(sample.captions), min(self.captions_per_image, len(sample.captions)))
        # Subword tokenizers have another token for a word after a space, which is the usual form inside a text.
        space = " " if self.prompt else ""
        return [Row((sample.image, self.prompt), space + caption, sample.key) for caption in chosen]

    def prompt_rows(self, sample: Sample) -> list[Row]:
        groups = group_names(sample.groups)
        return [Row((sample.image, self.prompt), "", sample.key, sample.key, tuple(sample.captions), groups=groups)]

    def check_references(self, sample: Sample) -> None:
        if not sample.captions:
            raise ValueError(
                f"sample {sample.key!r} has no caption, which task captioning needs; set task=vqa or submission=FILE"
            )

    def generate(self, model: PrefixLM, batch: Batch) -> list[str]:
        if self.consensus is None:
            return super().generate(model, batch)
        return self.consensus.choose(model, batch, generate_beams(model, batch, self.decoding))

    def correct(self, prediction: str, references: Sequence[str]) -> float:
        return exact_match([prediction], [references]) / 100

    def scores(self, predictions: Sequence[Prediction]) -> dict[str, Score]:
        """Return exact match in percent, the scores of the COCO tool on its scale, diversity, and CIDEr by group.

        Exact match comes first if the captions are a closed set (`_are_closed`), else CIDEr, and exact match last.
        CIDEr of a group uses the document frequencies of the group alone, as nocaps does for its domains.
        """
        exact = {"exact_match": item_mean_score(predictions, [100 * (p.correct or 0) for p in predictions])}
        scores, words = dict[str, Score](), _words(predictions)
        for metric in self.metrics:
            scores |= _scores_of(metric, predictions, words)
        scores = exact | scores if _are_closed(predictions) else {"cider": scores.pop("cider"), **scores, **exact}
        for name, members in by_group(predictions).items():
            scores[f"cider_{name}"] = _scores_of(COCO, members, words)["cider"]
        return scores

    def report(self, predictions: Sequence[Prediction], *args: Any) -> dict[str, Any]:
        """Add `item_score`, by which the report shows a caption: CIDEr if it leads, else null, for right or wrong.

        The variant names the compared units, which are words or characters.
        """
        report = super().report(predictions, *args)
        if self.consensus:
            report["decoding"] = self.decoding | {"consensus": {"ridge": self.consensus.ridge}}
        report["item_score"] = "cider" if next(iter(report["scores"]), "") == "cider" else None
        compared = caption_variant(_words(predictions))  # depends on the language, which only the references show
        return report | {"variant": report["variant"].replace(caption_variant(PTB), compared)}


def _words(predictions: Sequence[Prediction]) -> Words:
    return words_of(p.references for p in predictions)


def _are_closed(predictions: Sequence[Prediction]) -> bool:
    """Whether at least half of the images have a reference that another image has too, as the shapes of easy-VQA do."""
    texts = [{normalise(text) for text in p.references} for p in predictions]
    counts = Counter(text for each in texts for text in each)
    return 2 * sum(any(counts[text] > 1 for text in each) for each in texts) >= len(texts)


def _scores_of(metric: CaptionMetric, predictions: Sequence[Prediction], words: Words) -> dict[str, Score]:
    result = metric([p.prediction for p in predictions], [p.references for p in predictions], words)
    scores = corpus_score(predictions, result.corpus) if result.corpus else {}
    scores |= {name: item_mean_score(predictions, items) for name, items in result.items.items()}
    return scores | {name: Score(value, predictions) for name, value in result.values.items()}
