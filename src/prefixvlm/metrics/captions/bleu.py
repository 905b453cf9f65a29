"""Tokenised captions and references by id go in; BLEU-1..4 (Papineni et al. 2002) as the COCO tool has it comes out.

It is a corpus score: counts are summed over the images, then divided. The reference length is the closest one, the
shorter if two are as close. The two tiny constants are the tool's, so that no match at all scores nearly 0.
"""

import math
from collections.abc import Mapping, Sequence

from prefixvlm.metrics.captions.ngrams import MAX_ORDER, NGrams, count_ngrams
from prefixvlm.metrics.pairs import Id, check_ids

TINY, SMALL = 1e-15, 1e-9

# Words predicted, words of the closest reference, n-grams that match (1..4), n-grams predicted (1..4).
Statistics = list[int]


def bleu(
    predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]
) -> tuple[list[float], dict[Id, list[float]]]:
    """[BLEU-1, ..., BLEU-4] of the corpus and of each image alone, 0 to 1."""
    check_ids(predictions, references)
    return bleu_scores(
        {
            id: bleu_statistics(count_ngrams(prediction), [count_ngrams(truth) for truth in references[id]])
            for id, prediction in predictions.items()
        }
    )


def bleu_statistics(prediction: NGrams, truths: Sequence[NGrams]) -> Statistics:
    """What BLEU needs to know about one image."""
    length = prediction.num_words
    closest = min((abs(truth.num_words - length), truth.num_words) for truth in truths)[1]
    matches = [0] * MAX_ORDER
    for ngram, count in prediction.counts.items():
        limit = 0
        for truth in truths:
            if ngram in truth.counts and truth.counts[ngram] > limit:
                limit = truth.counts[ngram]
        matches[len(ngram) - 1] += min(count, limit)
    return [length, closest, *matches, *(max(length - order, 0) for order in range(MAX_ORDER))]


def bleu_scores(statistics: Mapping[Id, Statistics]) -> tuple[list[float], dict[Id, list[float]]]:
    """The scores of the corpus and of each image from their statistics."""
    corpus = [sum(column) for column in zip(*statistics.values(), strict=True)]
    return bleu_of(corpus), {id: bleu_of(row) for id, row in statistics.items()}


def bleu_of(statistics: Statistics) -> list[float]:
    """[BLEU-1, ..., BLEU-4] from the statistics of an image, or from the sums over many."""
    length, closest, *counts = statistics
    matches, totals = counts[:MAX_ORDER], counts[MAX_ORDER:]
    ratio = (length + TINY) / (closest + SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order, (match, total) in enumerate(zip(matches, totals, strict=True), start=1):
        product *= (match + TINY) / (total + SMALL)
        scores.append(product ** (1 / order) * penalty)
    return scores
