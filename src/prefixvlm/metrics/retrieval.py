"""Recall at k of retrieval, from images to captions and from captions to images."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

KS = (1, 5, 10)


def ranks(scores: ArrayLike, positives: Sequence[Collection[int]]) -> NDArray[np.int64]:
    """Return int[N]: the number of wrong candidates before the best right candidate of each query.

    scores: float[N, M], higher is better. positives: for each query the indices of its right candidates.
    Raises ValueError if a query has no right candidate, or one that does not exist.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or len(table) != len(positives) or not len(positives):
        raise ValueError(f"scores of shape {table.shape} do not fit the right candidates of {len(positives)} queries")
    places = np.empty(len(table), dtype=np.int64)
    for query, (row, right) in enumerate(zip(table, positives, strict=True)):
        own = np.array(sorted(set(right)), dtype=np.int64)
        if not len(own) or own[0] < 0 or own[-1] >= len(row):
            raise ValueError(f"query {query} has the right candidates {own.tolist()}, of {len(row)} candidates")
        best = row[own].max()
        # Ties count against the system, so that constant scores rank last; so does NaN, for which `<` is false. Other
        # right candidates do not count: several captions of an image must not push each other back.
        places[query] = (~(row < best)).sum() - (~(row[own] < best)).sum()
    return places


def recall_items(scores: ArrayLike, caption_owner: Sequence[int], ks: Sequence[int] = KS) -> dict[str, list[float]]:
    """Return `image_to_text_recall_K` of each image and `text_to_image_recall_K` of each caption: 100 or 0.

    scores: float[B images, S captions]. caption_owner: the index of each caption's image.
    Raises ValueError for an image without a caption.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or table.shape[1] != len(caption_owner):
        raise ValueError(f"scores of shape {table.shape} do not fit {len(caption_owner)} captions")
    caption_ranks = ranks(table.T, [{owner} for owner in caption_owner])
    captions: list[list[int]] = [[] for _ in table]
    for caption, owner in enumerate(caption_owner):
        captions[owner].append(caption)
    # As Karpathy and Fei-Fei (2015) count: an image is right if any of its captions is among the first K of all.
    by_direction = {"image_to_text": ranks(table, captions), "text_to_image": caption_ranks}
    return {
        f"{direction}_recall_{k}": (100.0 * (each < k)).tolist() for direction, each in by_direction.items() for k in ks
    }


def retrieval_scores(scores: ArrayLike, caption_owner: Sequence[int], ks: Sequence[int] = KS) -> dict[str, float]:
    """Return the means of `recall_items`, in percent."""
    return {name: sum(items) / len(items) for name, items in recall_items(scores, caption_owner, ks).items()}
