"""Tokenised captions and references by id go in; BLEU-1..4 (Papineni et al. 2002) as the COCO tool has it comes out.

It is a corpus score: counts are summed over the images, then divided. The reference length is the closest one, the
shorter if two are as close. The two tiny constants are the tool's, so that no match at all scores nearly 0.
"""

import math
from collections.abc import Mapping, Sequence

from prefixvlm.metrics.ngrams import MAX_ORDER, count_ngrams
from prefixvlm.metrics.pairs import Id, check_ids

TINY, SMALL = 1e-15, 1e-9


def bleu(
    predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]
) -> tuple[list[float], dict[Id, list[float]]]:
    """[BLEU-1, ..., BLEU-4] of the corpus and of each image alone, 0 to 1."""
    check_ids(predictions, references)
    statistics = {id: _statistics(prediction, references[id]) for id, prediction in predictions.items()}
    corpus = [sum(column) for column in zip(*statistics.values(), strict=True)]
    return _scores(corpus), {id: _scores(row) for id, row in statistics.items()}


def _statistics(prediction: str, truths: Sequence[str]) -> list[int]:
    """Words predicted, words of the closest reference, n-grams that match (1..4), n-grams predicted (1..4)."""
    counts, limits = count_ngrams(prediction), [count_ngrams(truth) for truth in truths]
    length = len(prediction.split())
    closest = min((abs(len(truth.split()) - length), len(truth.split())) for truth in truths)[1]
    matches = [
        sum(min(count, max(limit[order][ngram] for limit in limits)) for ngram, count in counts[order].items())
        for order in range(MAX_ORDER)
    ]
    return [length, closest, *matches, *(order.total() for order in counts)]


def _scores(statistics: Sequence[int]) -> list[float]:
    length, closest, *counts = statistics
    matches, totals = counts[:MAX_ORDER], counts[MAX_ORDER:]
    ratio = (length + TINY) / (closest + SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for order, (match, total) in enumerate(zip(matches, totals, strict=True), start=1):
        product *= (match + TINY) / (total + SMALL)
        scores.append(product ** (1 / order) * penalty)
    return scores
