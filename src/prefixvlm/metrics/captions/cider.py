"""Tokenised captions and references by id go in; CIDEr-D (Vedantam et al. 2015) as the COCO tool reports it comes out.

The tool calls it "CIDEr". Its quirks are kept: the length in the penalty counts bigrams, term frequencies are raw
counts, and the document frequencies come from the references that are scored. So a subset scores differently from the
whole, one image alone scores 0, and a mean over ranks is wrong: gather first, score once.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prefixvlm.metrics.captions.ngrams import MAX_ORDER, NGram, NGrams, count_ngrams
from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.ptb.tokenizer import ptb_tokenize

SIGMA = 6.0  # of the Gaussian penalty on the difference in length


@dataclass(frozen=True)
class DocumentFrequencies:
    """In how many of `num_images` images an n-gram occurs, however many references of an image have it.

    source: what they were counted on, for the name of the variant.
    """

    num_images: int
    counts: Mapping[NGram, int]
    source: str = "references"

    @classmethod
    def of(
        cls, references: Mapping[Id, Sequence[str]], tokenize: Callable[[str], str] = ptb_tokenize
    ) -> "DocumentFrequencies":
        """Of the references of each image, as people write them."""
        counts = Counter[NGram]()
        for texts in references.values():
            counts.update(set[NGram]().union(*(count_ngrams(tokenize(text)).counts for text in texts)))
        return cls(len(references), counts)

    def save(self, path: str | Path) -> None:
        """As JSON, n-grams joined by spaces; compressed if the name ends in .gz."""
        content = {"num_images": self.num_images, "counts": {" ".join(ngram): n for ngram, n in self.counts.items()}}
        data = json.dumps(content, ensure_ascii=False).encode()
        Path(path).write_bytes(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)

    @classmethod
    def load(cls, path: str | Path) -> "DocumentFrequencies":
        """What `save` wrote; a ValueError says what is wrong with anything else."""
        try:
            data = Path(path).read_bytes()
            content = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(f"the document frequencies {path} cannot be read: {error}") from None
        if not isinstance(content, dict) or content.keys() != {"num_images", "counts"}:
            raise ValueError(f"the document frequencies {path} must hold num_images and counts, nothing else")
        num_images, counts = content["num_images"], content["counts"]
        if type(num_images) is not int or num_images < 1 or not isinstance(counts, dict):
            raise ValueError(f"the document frequencies {path} need a positive num_images and a table of counts")
        for ngram, count in counts.items():
            if type(count) is not int or not 1 <= count <= num_images or not 1 <= len(ngram.split()) <= MAX_ORDER:
                raise ValueError(f"the document frequencies {path} have {ngram!r}: {count!r} for {num_images} images")
        return cls(num_images, {tuple(ngram.split()): n for ngram, n in counts.items()}, Path(path).name)


def cider(
    predictions: Mapping[Id, str],
    references: Mapping[Id, Sequence[str]],
    document_frequencies: DocumentFrequencies | None = None,
) -> tuple[float, dict[Id, float]]:
    """The mean over the images and the score of each, on the tool's scale (0 to 10; papers print 100 times it).

    document_frequencies: saved ones take the place of those of the references, and their number of images that of the
    images scored: the log reference length is log(num_images), as in pyciderevalcap with a file of frequencies.
    """
    check_ids(predictions, references)
    score = CiderD(document_frequencies or DocumentFrequencies.of(references, tokenize=str))
    scores = {
        id: score(count_ngrams(prediction), [count_ngrams(truth) for truth in references[id]])
        for id, prediction in predictions.items()
    }
    return sum(scores.values()) / len(scores), scores


class CiderD:
    """Scores one image at a time, given the frequencies over all."""

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self._counts = frequencies.counts
        largest = max(self._counts.values(), default=1)
        # The rarity of an n-gram by its frequency; one that no reference has counts as if one image had it.
        self._rarity = [math.log(frequencies.num_images / max(count, 1)) for count in range(largest + 1)]

    def __call__(self, prediction: NGrams, truths: Sequence[NGrams]) -> float:
        weights = self._weights(prediction)
        norms = _norms(weights)
        return 10.0 * sum(self._similarity(prediction, weights, norms, truth) for truth in truths) / len(truths)

    def _weights(self, caption: NGrams) -> dict[NGram, float]:
        """tf-idf."""
        frequency, rarity = self._counts, self._rarity
        return {ngram: count * rarity[frequency.get(ngram, 0)] for ngram, count in caption.counts.items()}

    def _similarity(
        self, prediction: NGrams, weights: Mapping[NGram, float], norms: Sequence[float], truth: NGrams
    ) -> float:
        """Clipped cosine, mean over the orders, with the length penalty."""
        truths = self._weights(truth)
        products = [0.0] * MAX_ORDER
        for ngram in weights.keys() & truths.keys():
            products[len(ngram) - 1] += min(weights[ngram], truths[ngram]) * truths[ngram]
        others = _norms(truths)
        cosines = (a / (b * c) for a, b, c in zip(products, norms, others, strict=True) if a)
        gap = max(prediction.num_words - 1, 0) - max(truth.num_words - 1, 0)
        return sum(cosines) / MAX_ORDER * math.exp(-(gap**2) / (2 * SIGMA**2))


def _norms(weights: Mapping[NGram, float]) -> list[float]:
    squares = [0.0] * MAX_ORDER
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return [math.sqrt(square) for square in squares]
