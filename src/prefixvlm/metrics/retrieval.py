"""Scores of candidates for each query go in; how often a right candidate is among the first k comes out, in percent."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

KS = (1, 5, 10)


def ranks(scores: ArrayLike, positives: Sequence[Collection[int]]) -> NDArray[np.int64]:
    """int[N]: how many wrong candidates come before each query's best right one; 0 is the first place.

    scores: float[N, M], higher is better. positives: for each query the right ones of the M candidates.
    Ties count against the system: a wrong candidate with the same score comes before, so that constant scores rank
    last, and so does NaN. Raises ValueError where a query has no right candidate or one that is not there.
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
        places[query] = (~(row < best)).sum() - (~(row[own] < best)).sum()
    return places


def recall_items(scores: ArrayLike, caption_owner: Sequence[int], ks: Sequence[int] = KS) -> dict[str, list[float]]:
    """`image_to_text_recall_K` of each image and `text_to_image_recall_K` of each caption: 100 if it finds, 0 if not.

    scores: float[B images, S captions]. caption_owner: for each caption, which image it belongs to.
    Several captions an image are as in Karpathy and Fei-Fei 2015: an image is right if any of its captions is among
    the first K of all captions; a caption has one right image. Raises ValueError for an image without a caption.
    """
    table = np.asarray(scores)
    if table.ndim != 2 or table.shape[1] != len(caption_owner):
        raise ValueError(f"scores of shape {table.shape} do not fit {len(caption_owner)} captions")
    of_captions = ranks(table.T, [{owner} for owner in caption_owner])
    captions: list[list[int]] = [[] for _ in table]
    for caption, owner in enumerate(caption_owner):
        captions[owner].append(caption)
    places = {"image_to_text": ranks(table, captions), "text_to_image": of_captions}
    return {f"{way}_recall_{k}": (100.0 * (each < k)).tolist() for way, each in places.items() for k in ks}


def retrieval_scores(scores: ArrayLike, caption_owner: Sequence[int], ks: Sequence[int] = KS) -> dict[str, float]:
    """The means of `recall_items`, in percent."""
    return {name: sum(items) / len(items) for name, items in recall_items(scores, caption_owner, ks).items()}
