"""BLEU-1 to BLEU-4 (Papineni et al. 2002) of tokenized captions, as the COCO tool computes it."""

import math
from collections.abc import Mapping, Sequence

from prefixvlm.metrics.captions.ngrams import MAX_ORDER, NGrams, count_ngrams
from prefixvlm.metrics.pairs import Id, check_ids

# Added by the COCO tool to numerators and denominators: without a match BLEU is nearly 0, and no division is by zero.
TINY, SMALL = 1e-15, 1e-9

# Number of predicted words, number of words of the closest reference, matching n-grams of order 1 to 4, predicted
# n-grams of order 1 to 4.
Statistics = list[int]


def bleu(
    predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]
) -> tuple[list[float], dict[Id, list[float]]]:
    """Return [BLEU-1, ..., BLEU-4] of the corpus and of each image alone, 0 to 1."""
    check_ids(predictions, references)
    return bleu_scores(
        {
            id: bleu_statistics(count_ngrams(prediction), [count_ngrams(truth) for truth in references[id]])
            for id, prediction in predictions.items()
        }
    )


def bleu_statistics(prediction: NGrams, truths: Sequence[NGrams]) -> Statistics:
    """Return the statistics of one image. They add up over images, unlike BLEU itself."""
    length = prediction.num_words
    # The "closest" reference length of the tool; the tuple breaks ties in favour of the shorter one.
    closest = min((abs(truth.num_words - length), truth.num_words) for truth in truths)[1]
    matches = [0] * MAX_ORDER
    for ngram, count in prediction.counts.items():
        limit = 0
        for truth in truths:
            if ngram in truth.counts and truth.counts[ngram] > limit:
                limit = truth.counts[ngram]
        # Clipped at the most that any single reference has of it, so that "the the the" does not match "the" thrice.
        matches[len(ngram) - 1] += min(count, limit)
    return [length, closest, *matches, *(max(length - order, 0) for order in range(MAX_ORDER))]


def bleu_scores(statistics: Mapping[Id, Statistics]) -> tuple[list[float], dict[Id, list[float]]]:
    """Return the scores of the corpus and of each image from the images' statistics."""
    # Counts are summed before the division, as Papineni et al. define BLEU: a mean over the images' scores would punish
    # a short sentence for its length, where the corpus as a whole may be long enough.
    corpus = [sum(column) for column in zip(*statistics.values(), strict=True)]
    return bleu_of(corpus), {id: bleu_of(row) for id, row in statistics.items()}


def bleu_of(statistics: Statistics) -> list[float]:
    """Return [BLEU-1, ..., BLEU-4] from the statistics of an image, or from their sums over many images."""
    length, closest, *counts = statistics
    matches, totals = counts[:MAX_ORDER], counts[MAX_ORDER:]
    ratio = (length + TINY) / (closest + SMALL)
    # The brevity penalty stands in for recall, which has no meaning with several references. Long captions need no
    # penalty: their extra words lower the precision.
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order, (match, total) in enumerate(zip(matches, totals, strict=True), start=1):
        # BLEU-n is the geometric mean of the precisions up to order n.
        product *= (match + TINY) / (total + SMALL)
        scores.append(product ** (1 / order) * penalty)
    return scores
