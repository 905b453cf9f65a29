"""Captions scored by the n-grams that ridge regression predicts: against a plain computation with dense matrices."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from prefixvlm.metrics.captions.ngram_ridge import NGramRidge
from prefixvlm.metrics.ptb.tokenizer import ptb_tokenize

CAPTIONS = [
    ("A dog runs on the grass.", "The dog is running."),
    ("Two dogs run, run and run.",),
    ("A man rides a bike.", "A man on a bike on a road.", "Someone cycles."),
    ("A man on the grass",),
]
CANDIDATES = ["a dog on the grass", "A man rides a horse.", "run run run", "zebra", ""]


def ngrams(text):
    words = ptb_tokenize(text).split()
    return [tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1)]


def dense_vector(text, idf, vocabulary):
    """Return float64[4, V]: the tf-idf vector of each order, with norm 1 unless it is zero."""
    vector = np.zeros((4, len(vocabulary)))
    for ngram in ngrams(text):
        vector[len(ngram) - 1, vocabulary.index(ngram)] += idf[ngram]
    norms = np.linalg.norm(vector, axis=1, keepdims=True)
    return vector / np.where(norms == 0, 1, norms)


def dense_scores(x, test, ridge):
    vocabulary = sorted({g for texts in [*CAPTIONS, CANDIDATES] for text in texts for g in ngrams(text)})
    documents = [{g for text in texts for g in ngrams(text)} for texts in CAPTIONS]
    idf = {g: math.log(len(CAPTIONS) / max(1, sum(g in each for each in documents))) for g in vocabulary}
    y = np.stack([np.mean([dense_vector(t, idf, vocabulary).ravel() for t in texts], 0) for texts in CAPTIONS])
    # Least squares with sqrt(ridge) times the unit matrix below the features, and zeros below the targets.
    rows = np.concatenate([x, math.sqrt(ridge) * np.eye(x.shape[1])])
    coefficients = np.linalg.lstsq(rows, np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]
    return [dense_vector(c, idf, vocabulary).ravel() @ (test @ coefficients) / 4 for c in CANDIDATES]


@pytest.mark.parametrize("width", [2, 6])  # less features than images, and more
@pytest.mark.parametrize("ridge", [0.1, 3.0])
def test_scores_are_those_of_dense_matrices(width, ridge):
    torch.manual_seed(width)
    x, test = normalize(torch.randn(len(CAPTIONS), width), dim=1), normalize(torch.randn(width), dim=0)
    found = NGramRidge(x, CAPTIONS, ridge).scores(test, CANDIDATES)
    assert found == pytest.approx(dense_scores(x.double().numpy(), test.double().numpy(), ridge), abs=1e-6)
    assert found[-2:] == [0, 0]  # words that no caption has, and no words


def test_the_captions_of_the_same_image_win():
    x = torch.eye(len(CAPTIONS))
    scorer = NGramRidge(x, CAPTIONS, 1e-3)
    for image, captions in enumerate(CAPTIONS):
        scores = scorer.scores(x[image], [captions[0], *(CAPTIONS[i][0] for i in range(len(x)) if i != image)])
        assert scores[0] == max(scores)
        assert scores.count(scores[0]) == 1


def test_scripts_without_spaces_are_compared_by_characters():
    scorer = NGramRidge(torch.eye(2), [("一只红色的狗",), ("一辆车",)], 1e-3)
    red, car = scorer.scores(torch.eye(2)[0], ["红色", "车"])
    assert red > car
