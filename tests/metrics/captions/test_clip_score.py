"""Compare CLIPScore and RefCLIPScore with plain loops and with the authors' formulas."""

import math

import numpy as np
import pytest
import torch

from prefixvlm.metrics.captions.clip_score import PREFIX, clip_scores


def case() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    rng = np.random.RandomState(0)
    images = rng.randn(4, 6)
    captions = images * 0.3 + rng.randn(4, 6)
    return images, captions, [rng.randn(n, 6) + captions[i] * 0.5 for i, n in enumerate((1, 2, 3, 1))]


def test_golden_numbers() -> None:
    """jmhessel/clipscore's formulas (commit d200b56) with sklearn.preprocessing.normalize, scikit-learn 1.9.1."""
    found = clip_scores(*case())
    assert found.per_item["clip_score"] == pytest.approx([146.18831, 32.01578, 27.194224, 0], abs=1e-5)
    assert found.per_item["ref_clip_score"] == pytest.approx([30.900064, 46.658218, 38.862449, 0], abs=1e-5)
    assert found.scores == pytest.approx({"clip_score": 51.34957840607085, "ref_clip_score": 29.10518255400482})
    assert PREFIX == "A photo depicts "


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_scores_equal_plain_loops() -> None:
    rng = np.random.default_rng(5)
    images, captions = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    references = [rng.normal(size=(rng.integers(1, 6), 3)) for _ in range(50)]
    found = clip_scores(images, captions, references)
    clips, refs = [], []
    for image, caption, texts in zip(images.tolist(), captions.tolist(), references, strict=True):
        clips.append(100 * 2.5 * max(cosine(image, caption), 0))
        nearest = 100 * max(*(cosine(caption, text) for text in texts.tolist()), 0.0)
        refs.append(2 / (1 / clips[-1] + 1 / nearest) if clips[-1] and nearest else 0.0)
    assert found.per_item["clip_score"] == pytest.approx(clips)
    assert found.per_item["ref_clip_score"] == pytest.approx(refs)
    assert found.scores == pytest.approx({"clip_score": np.mean(clips), "ref_clip_score": np.mean(refs)})
    assert 0 in clips
    assert 0 in refs
    tensors = clip_scores(*(torch.tensor(x) for x in (images, captions)), [torch.tensor(x) for x in references])
    assert tensors == found
    assert "ref_clip_score" not in clip_scores(images, captions).scores


def test_a_cosine_below_zero_counts_as_zero() -> None:
    right, up, left, down = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]
    diagonal = [1.0, 1.0]
    found = clip_scores(
        [right, right, right, right, right],
        [right, left, up, diagonal, diagonal],
        [[up, right], [left], [down], [left], [left, up]],
    ).per_item
    half = math.sqrt(0.5)
    assert found["clip_score"] == pytest.approx([250, 0, 0, 250 * half, 250 * half])
    # Item 3: r would be -0.71, the authors' code would give -2.36; item 2: it would give NaN or -0.
    assert found["ref_clip_score"] == pytest.approx([2 * 250 / 3.5, 0, 0, 0, half * 2 * 250 / 3.5])


@pytest.mark.parametrize(
    ("images", "captions", "references", "message"),
    [
        (np.ones((2, 3)), np.ones((1, 3)), None, r"images have the shape \(2, 3\) but captions \(1, 3\)"),
        (np.ones((1, 3)), np.ones((1, 3)), [np.ones((1, 3))] * 2, "1 captions but references of 2"),
        (np.ones((1, 3)), np.ones((1, 3)), [np.ones((0, 3))], r"references have the shape \(0, 3\)"),
        (np.ones((0, 3)), np.ones((0, 3)), None, r"images have the shape \(0, 3\)"),
        (np.ones((1, 3)), np.zeros((1, 3)), None, "captions hold a vector that is zero"),
        (np.full((1, 3), np.nan), np.ones((1, 3)), None, "images hold a vector that is zero or not finite"),
    ],
)
def test_bad_input(images, captions, references, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clip_scores(images, captions, references)
