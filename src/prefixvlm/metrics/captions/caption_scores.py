"""The scores of the official COCO caption tool (pycocoevalcap) that need no model: BLEU, ROUGE-L and CIDEr-D."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from prefixvlm.metrics.captions.bleu import bleu_of, bleu_scores, bleu_statistics
from prefixvlm.metrics.captions.cider import CiderD, DocumentFrequencies
from prefixvlm.metrics.captions.diversity import diversity
from prefixvlm.metrics.captions.interface import CaptionMetric, CaptionResult
from prefixvlm.metrics.captions.ngrams import count_ngrams
from prefixvlm.metrics.captions.rouge import rouge_l
from prefixvlm.metrics.captions.words import PTB, Words, words_of
from prefixvlm.metrics.pairs import Id
from prefixvlm.metrics.score_kind import DESCRIPTION, RATIO, ScoreKind

BLEU_NAMES = [f"bleu_{order}" for order in range(1, 5)]


def caption_variant(words: Words = PTB, source: str = "references") -> str:
    """The name of these scores. source: of the document frequencies."""
    return f"coco; {words.name}; df={source}"


@dataclass(frozen=True)
class CaptionScores:
    """scores: `bleu_1` ... `bleu_4`, `rouge_l` (0 to 1) and `cider` (0 to 10) as the official tool reports them.

    per_item: each image's `bleu_4`, `rouge_l` and `cider`, in the order of the predictions. BLEU is a score of the
    corpus: it is `bleu_of` the sum of `bleu_statistics`, int[N, 10], and not the mean of its `per_item`.
    variant: names the tokenizer and the source of the document frequencies; scores of different variants do not
    compare.
    """

    scores: dict[str, float]
    per_item: dict[str, list[float]]
    bleu_statistics: list[list[int]]
    variant: str


def caption_scores(
    predictions: Mapping[Id, str],
    references: Mapping[Id, Sequence[str]],
    document_frequencies: DocumentFrequencies | None = None,
    words: Words | None = None,
) -> CaptionScores:
    """Score raw captions by id.

    words: PTB tokens or single characters; by default what `words_of` finds for the references.
    document_frequencies: for CIDEr, in place of those of the references, which the official score uses.
    """
    words = words or words_of(references.values())
    candidates, truths = words.of_all(predictions, references)
    frequencies = document_frequencies or DocumentFrequencies.of(truths, tokenize=str)
    cider_d, statistics, ciders = CiderD(frequencies), {}, []
    # n-grams are counted once for BLEU and CIDEr, image by image: those of 40,000 captions would take gigabytes.
    for id, candidate in candidates.items():
        counts, limits = count_ngrams(candidate), [count_ngrams(truth) for truth in truths[id]]
        statistics[id] = bleu_statistics(counts, limits)
        ciders.append(cider_d(counts, limits))
    corpus, images = bleu_scores(statistics)
    rouge, rouges = rouge_l(candidates, truths)
    return CaptionScores(
        scores=dict(zip(BLEU_NAMES, corpus, strict=True)) | {"rouge_l": rouge, "cider": sum(ciders) / len(ciders)},
        per_item={"bleu_4": [scores[3] for scores in images.values()], "rouge_l": [*rouges.values()], "cider": ciders},
        bleu_statistics=[*statistics.values()],
        variant=caption_variant(words, frequencies.source),
    )


class CocoCaptionMetrics(CaptionMetric):
    """BLEU, ROUGE-L and CIDEr-D as one metric, because they share the counts of n-grams."""

    score_kinds: Mapping[str, ScoreKind] = dict.fromkeys([*BLEU_NAMES, "rouge_l", "cider"], RATIO)
    variant = caption_variant()

    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]], words: Words) -> CaptionResult:
        result = caption_scores(dict(enumerate(predictions)), dict(enumerate(references)), words=words)
        statistics = np.array(result.bleu_statistics)
        return CaptionResult(
            {name: result.per_item[name] for name in ("rouge_l", "cider")},
            lambda draw: dict(zip(BLEU_NAMES, bleu_of(statistics[draw].sum(0).tolist()), strict=True)),
        )


class Diversity(CaptionMetric):
    """How much captions differ from each other; see `diversity`."""

    score_kinds: Mapping[str, ScoreKind] = {
        "distinct_captions": ScoreKind(of_images=False),
        "most_frequent_share": ScoreKind(higher_is_better=False, of_images=False),
        "vocabulary": DESCRIPTION,
        "mean_length": DESCRIPTION,
    }
    variant = ""

    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]], words: Words) -> CaptionResult:
        return CaptionResult(values=diversity(predictions, words))
