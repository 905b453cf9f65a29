"""CIDEr-D (Vedantam et al. 2015) of tokenized captions, as the COCO tool computes it under the name "CIDEr".

By default the document frequencies come from the references that are scored. A subset therefore scores differently from
the whole, one image alone scores 0, and a mean over ranks is wrong: gather all predictions and score them once.
"""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefixvlm.atomic import write_bytes
from prefixvlm.metrics.captions.ngrams import MAX_ORDER, NGram, NGrams, count_ngrams
from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.ptb.tokenizer import ptb_tokenize
from prefixvlm.strict_json import parse_json

# Standard deviation of the Gaussian penalty on the difference in length, in words. CIDEr-D has it, and CIDEr does not,
# because a caption could gain by repeating words of which it is sure.
SIGMA = 6.0

OF_ONE_IMAGE = (
    "CIDEr of a single image is 0 by definition, whatever its caption: every n-gram is in all of the references' images"
)


@dataclass(frozen=True)
class DocumentFrequencies:
    """The number of images with each n-gram in a reference, among `num_images` images.

    source: of the counts, for the name of the variant.
    """

    num_images: int
    counts: Mapping[NGram, int]
    source: str = "references"

    @classmethod
    def of(
        cls, references: Mapping[Id, Sequence[str]], tokenize: Callable[[str], str] = ptb_tokenize
    ) -> "DocumentFrequencies":
        """Count the n-grams of raw references by image."""
        counts = Counter[NGram]()
        for texts in references.values():
            # An image is the document: an n-gram counts once, however many of its references have it.
            counts.update(set[NGram]().union(*(count_ngrams(tokenize(text)).counts for text in texts)))
        return cls(len(references), counts)

    def save(self, path: str | Path) -> None:
        """Write JSON with the words of an n-gram joined by spaces, compressed if the name ends in .gz."""
        content = {"num_images": self.num_images, "counts": {" ".join(ngram): n for ngram, n in self.counts.items()}}
        data = json.dumps(content, ensure_ascii=False).encode()
        # mtime=0: the same frequencies give the same bytes, whenever they are written.
        write_bytes(path, gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)

    @classmethod
    def load(cls, path: str | Path) -> "DocumentFrequencies":
        """Read a file of `save`. Raises ValueError if it is not one."""
        try:
            data = Path(path).read_bytes()
            # By gzip's magic bytes, not by the name: files are renamed.
            content = parse_json(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data, Any)
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
    """Return the mean over the images and the score of each, on the tool's scale (0 to 10; papers print 100 times it).

    document_frequencies: used in place of those of the references, with their number of images, as pyciderevalcap does
        with a file of frequencies.
    """
    check_ids(predictions, references)
    score = CiderD(document_frequencies or DocumentFrequencies.of(references, tokenize=str))
    scores = {
        id: score(count_ngrams(prediction), [count_ngrams(truth) for truth in references[id]])
        for id, prediction in predictions.items()
    }
    return sum(scores.values()) / len(scores), scores


class CiderD:
    """Scores one image at a time, given the document frequencies over all images."""

    def __init__(self, frequencies: DocumentFrequencies) -> None:
        self._counts = frequencies.counts
        largest = max(self._counts.values(), default=1)
        # idf by document frequency. An n-gram that no reference has counts as if one image had it, as in the tool.
        self._idf = [math.log(frequencies.num_images / max(count, 1)) for count in range(largest + 1)]

    def __call__(self, prediction: NGrams, truths: Sequence[NGrams]) -> float:
        weights = self.weights(prediction)
        norms = norms_of(weights)
        # The factor of 10 is the paper's, so that CIDEr-D is of the size of the other metrics.
        return 10.0 * sum(self._similarity(prediction, weights, norms, truth) for truth in truths) / len(truths)

    def weights(self, caption: NGrams) -> dict[NGram, float]:
        """Return the tf-idf weight of each n-gram."""
        # The term frequency is the raw count in the tool; the paper divides by the number of n-grams, which the cosine
        # cancels, but the clipping below does not.
        frequency, idf = self._counts, self._idf
        return {ngram: count * idf[frequency.get(ngram, 0)] for ngram, count in caption.counts.items()}

    def _similarity(
        self, prediction: NGrams, weights: Mapping[NGram, float], norms: Sequence[float], truth: NGrams
    ) -> float:
        """Return the clipped cosine, averaged over the orders and multiplied by the length penalty."""
        truths = self.weights(truth)
        products = [0.0] * MAX_ORDER
        for ngram in weights.keys() & truths.keys():
            # Clipped at the reference's weight, so that repeating an n-gram does not raise the score.
            products[len(ngram) - 1] += min(weights[ngram], truths[ngram]) * truths[ngram]
        truth_norms = norms_of(truths)
        cosines = (a / (b * c) for a, b, c in zip(products, norms, truth_norms, strict=True) if a)
        # The tool's "length" is its number of bigrams.
        gap = max(prediction.num_words - 1, 0) - max(truth.num_words - 1, 0)
        return sum(cosines) / MAX_ORDER * math.exp(-(gap**2) / (2 * SIGMA**2))


def norms_of(weights: Mapping[NGram, float]) -> list[float]:
    """Return the L2 norm of the weights of each order."""
    squares = [0.0] * MAX_ORDER
    for ngram, weight in weights.items():
        squares[len(ngram) - 1] += weight * weight
    return [math.sqrt(square) for square in squares]
