"""CLIPScore and RefCLIPScore (Hessel et al. 2021), from features of images, captions and references.

Scores of different CLIP models do not compare; the paper's is OpenAI's ViT-B/32. The model should not be the encoder of
the captioning model that is scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Put before each caption and reference, as the paper recommends; CLIP's own prompts begin with "A photo of a".
PREFIX = "A photo depicts "
# Stretches the cosines, which are hardly ever above .4, to the range from 0 to 1.
WEIGHT = 2.5


@dataclass(frozen=True)
class ClipScores:
    """scores: `clip_score` and, with references, `ref_clip_score`, times 100. per_item: the same of each item."""

    scores: dict[str, float]
    per_item: dict[str, list[float]]


def clip_scores(images: ArrayLike, captions: ArrayLike, references: Sequence[ArrayLike] | None = None) -> ClipScores:
    """images, captions: float[B, D], of any norm. references: for each item float[R, D], R at least 1.

    CLIPScore c = 2.5 max(cos(image, caption), 0). RefCLIPScore is the harmonic mean of c and r, 0 if both are 0, with
    r = max(max over references of cos(caption, reference), 0).
    Raises ValueError if the shapes do not fit, or if a vector is zero or not finite.
    """
    image_rows, caption_rows = _unit(images, "images"), _unit(captions, "captions")
    if image_rows.shape != caption_rows.shape:
        raise ValueError(f"images have the shape {image_rows.shape} but captions {caption_rows.shape}")
    items = {"clip_score": WEIGHT * np.clip((image_rows * caption_rows).sum(1), 0, None)}
    if references is not None:
        if len(references) != len(caption_rows):
            raise ValueError(f"there are {len(caption_rows)} captions but references of {len(references)}")
        # As in the authors' code c has its weight here and r has none. That code does not clip r at 0, as the paper
        # does; its score is then NaN or negative, here 0.
        pairs = zip(references, caption_rows, strict=True)
        nearest = np.array([max((_unit(texts, "references") @ caption).max(), 0) for texts, caption in pairs])
        total = items["clip_score"] + nearest
        product = 2 * items["clip_score"] * nearest
        items["ref_clip_score"] = np.divide(product, total, out=np.zeros_like(total), where=total > 0)
    return ClipScores(
        scores={name: 100 * float(values.mean()) for name, values in items.items()},
        per_item={name: (100 * values).tolist() for name, values in items.items()},
    )


def _unit(features: ArrayLike, what: str) -> NDArray[np.float64]:
    """Return float64[N, D], each row of norm 1."""
    # float64: features may come in half precision, in which norms and cosines would be rounded again.
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"the features of {what} have the shape {rows.shape}, where [at least 1, D] is needed")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(norms) & (norms > 0)).all():
        raise ValueError(f"the features of {what} hold a vector that is zero or not finite")
    return rows / norms
