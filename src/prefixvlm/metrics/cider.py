"""Tokenised captions and references by id go in; CIDEr-D (Vedantam et al. 2015) as the COCO tool reports it comes out.

The tool calls it "CIDEr". Its quirks are kept: the length in the penalty counts bigrams, term frequencies are raw
counts, and the document frequencies come from the references that are scored. So a subset scores differently from the
whole, one image alone scores 0, and a mean over ranks is wrong: gather first, score once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.metrics.ngrams import MAX_ORDER, NGram, count_ngrams
from prefixvlm.metrics.pairs import Id, check_ids

SIGMA = 6.0  # of the Gaussian penalty on the difference in length

Counts = list[Counter[NGram]]


@dataclass(frozen=True)
class _Vector:
    weights: list[dict[NGram, float]]  # tf-idf, one dict for each order
    norms: list[float]
    length: int  # bigrams


def cider(predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> tuple[float, dict[Id, float]]:
    """The mean over the images and the score of each, on the tool's scale (0 to 10; papers print 100 times it)."""
    check_ids(predictions, references)
    counts = {id: [count_ngrams(truth) for truth in truths] for id, truths in references.items()}
    log_images = math.log(len(counts))
    rarity = {ngram: log_images - math.log(df) for ngram, df in document_frequencies(counts.values()).items()}
    scores = {}
    for id, prediction in predictions.items():
        candidate = _vector(count_ngrams(prediction), rarity, log_images)
        similarities = [_similarity(candidate, _vector(truth, rarity, log_images)) for truth in counts[id]]
        scores[id] = 10.0 * sum(similarities) / len(similarities)
    return sum(scores.values()) / len(scores), scores


def document_frequencies(images: Iterable[Sequence[Counts]]) -> Counter[NGram]:
    """In how many images an n-gram occurs, however many references of an image have it."""
    frequencies: Counter[NGram] = Counter()
    for references in images:
        frequencies.update({ngram for counts in references for order in counts for ngram in order})
    return frequencies


def _vector(counts: Counts, rarity: Mapping[NGram, float], unseen: float) -> _Vector:
    """rarity: the idf of an n-gram. unseen: that of one which no reference has, the same as for one image."""
    weights = [{ngram: count * rarity.get(ngram, unseen) for ngram, count in order.items()} for order in counts]
    norms = [math.sqrt(sum(weight * weight for weight in order.values())) for order in weights]
    return _Vector(weights, norms, length=counts[1].total())


def _similarity(candidate: _Vector, truth: _Vector) -> float:
    """Clipped cosine, mean over the orders, with the length penalty."""
    total = 0.0
    for order in range(MAX_ORDER):
        weights, truths = candidate.weights[order], truth.weights[order]
        product = sum(min(weights[ngram], truths[ngram]) * truths[ngram] for ngram in weights.keys() & truths.keys())
        if product:
            total += product / (candidate.norms[order] * truth.norms[order])
    return total / MAX_ORDER * math.exp(-((candidate.length - truth.length) ** 2) / (2 * SIGMA**2))
