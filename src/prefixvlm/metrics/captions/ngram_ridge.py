"""Predicts which n-grams the captions of an image have, from its features, by ridge regression on training images."""

from array import array
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prefixvlm.metrics.captions.cider import CiderD, DocumentFrequencies, norms_of
from prefixvlm.metrics.captions.ngrams import MAX_ORDER, NGram, count_ngrams
from prefixvlm.metrics.captions.words import words_of


class NGramRidge:
    """Scores captions of an image by their expected likeness to its references.

    The likeness of two captions is the cosine of their tf-idf vectors, averaged over the orders of n-grams: CIDEr-D
    without its clipping and its length penalty. Ridge regression without an intercept predicts the mean vector of an
    image's captions, and the score of a caption is the product of its own vector with that.
    features: float[N, D] of the training images, each with L2 norm 1. captions: those of each image.
    ridge: weight of the squared L2 norm of the coefficients.
    """

    def __init__(self, features: Tensor, captions: Sequence[Sequence[str]], ridge: float) -> None:
        self._tokenize = words_of(captions).tokenize
        texts = [[self._tokenize(text) for text in each] for each in captions]
        self._tf_idf = CiderD(DocumentFrequencies.of(dict(enumerate(texts)), tokenize=str))
        x = features.double()
        gram = x.T @ x + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        # float[D, N]: the product with an image's features weights the captions of the training images.
        self._coefficients = torch.linalg.solve(gram, x.T).float().cpu()
        self._numbers, self._images, self._values, self._starts = self._columns(texts)

    def _columns(self, texts: Sequence[Sequence[str]]) -> tuple[dict[NGram, int], np.ndarray, np.ndarray, np.ndarray]:
        """Return the number of each n-gram and, sorted by it, the training images that have it and their values.

        The last array is where the entries of each n-gram begin.
        """
        numbers: dict[NGram, int] = {}
        of_entry, images, values = array("q"), array("q"), array("f")
        for image, captions in enumerate(texts):
            for caption in captions:
                for ngram, value in self._vector(caption).items():
                    of_entry.append(numbers.setdefault(ngram, len(numbers)))
                    images.append(image)
                    values.append(value / len(captions))
        order = np.argsort(of_entry, kind="stable")
        starts = np.searchsorted(np.array(of_entry)[order], np.arange(len(numbers)))
        return numbers, np.array(images)[order], np.array(values)[order], starts

    def _vector(self, tokenized: str) -> dict[NGram, float]:
        """Return the tf-idf vector of a caption, of norm 1 for each order of n-grams."""
        weights = self._tf_idf.weights(count_ngrams(tokenized))
        norms = norms_of(weights)
        return {ngram: weight / norms[len(ngram) - 1] for ngram, weight in weights.items() if weight}

    def scores(self, features: Tensor, captions: Sequence[str]) -> list[float]:
        """Return the score of each caption of one image, at most about 1. features: float[D], with L2 norm 1."""
        weights = (features.float().cpu() @ self._coefficients).numpy()
        expected = np.add.reduceat(weights[self._images] * self._values, self._starts)
        return [self._score(expected, self._vector(self._tokenize(caption))) for caption in captions]

    def _score(self, expected: np.ndarray, vector: dict[NGram, float]) -> float:
        """Return the product of the vector of a caption with that of all n-grams, over the number of orders."""
        numbers = self._numbers
        # In the order of the caption: a set's is another in each process, and rounds otherwise.
        known = (value * expected[numbers[ngram]] for ngram, value in vector.items() if ngram in numbers)
        return float(sum(known)) / MAX_ORDER
