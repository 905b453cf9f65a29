"""Captions and references by id go in, as people write them; every caption score that needs no model comes out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.metrics.captions.bleu import bleu_scores, bleu_statistics
from prefixvlm.metrics.captions.cider import CiderD, DocumentFrequencies
from prefixvlm.metrics.captions.ngrams import count_ngrams
from prefixvlm.metrics.captions.rouge import rouge_l
from prefixvlm.metrics.captions.words import PTB, Words, words_of
from prefixvlm.metrics.pairs import Id


def caption_variant(words: Words = PTB, source: str = "references") -> str:
    """The name of the scores of such words, with document frequencies from this source."""
    return f"coco; {words.name}; df={source}"


@dataclass(frozen=True)
class CaptionScores:
    """scores: `bleu_1` ... `bleu_4`, `rouge_l` (0 to 1) and `cider` (0 to 10) as the official tool has them.

    per_item: each image's `bleu_4`, `rouge_l` and `cider`, in the order of the predictions, for intervals and paired
    tests. BLEU is a score of the whole: the mean of its `per_item` is not the score, but `bleu_of` the sum of its
    `bleu_statistics`, int[N, 10], is. variant: names the tokenizer and where the document frequencies come from; scores
    of different variants do not compare.
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
    """The scores of the official COCO tool (pycocoevalcap), on raw text.

    words: what is compared; by default as `words_of` the references has it, PTB words or single characters.
    document_frequencies: saved ones for CIDEr in place of those of the references, which the official score takes.
    """
    words = words or words_of(references.values())
    candidates, truths = words.of_all(predictions, references)
    frequencies = document_frequencies or DocumentFrequencies.of(truths, tokenize=str)
    cider_d, statistics, ciders = CiderD(frequencies), {}, []
    # n-grams are counted once for BLEU and CIDEr, and forgotten: kept, they would take gigabytes.
    for id, candidate in candidates.items():
        counts, limits = count_ngrams(candidate), [count_ngrams(truth) for truth in truths[id]]
        statistics[id] = bleu_statistics(counts, limits)
        ciders.append(cider_d(counts, limits))
    corpus, images = bleu_scores(statistics)
    rouge, rouges = rouge_l(candidates, truths)
    return CaptionScores(
        scores={f"bleu_{order}": score for order, score in enumerate(corpus, 1)}
        | {"rouge_l": rouge, "cider": sum(ciders) / len(ciders)},
        per_item={"bleu_4": [scores[3] for scores in images.values()], "rouge_l": [*rouges.values()], "cider": ciders},
        bleu_statistics=[*statistics.values()],
        variant=caption_variant(words, frequencies.source),
    )
