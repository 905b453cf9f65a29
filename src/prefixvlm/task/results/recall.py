"""Recall scores of retrieval tasks, and their tables in the report."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.bootstrap import group_sums
from prefixvlm.metrics.retrieval import KS, recall_items
from prefixvlm.metrics.score_kind import PERCENT, ScoreKind
from prefixvlm.task.results.prediction import Prediction, Score, corpus_score, item_mean_score

DIRECTIONS = {
    "text_to_image": "from a caption to its image",
    "image_to_text": "from an image to its captions",
}
RECALL_KINDS: Mapping[str, ScoreKind] = {f"{name}_recall_{k}": PERCENT for name in DIRECTIONS for k in KS}


def recalls(
    predictions: Sequence[Prediction], values: NDArray[np.floating], owners: Sequence[int], scorer: str = ""
) -> dict[str, Score]:
    """Return recall at 1, 5 and 10 in percent, in both directions.

    values: float[B, S], the score of each caption with each image. owners: index of the image of each caption.
    scorer: prefix of the names of the scores, if they are not those of the evaluated model.
    """
    # The bootstrap draws the queries of an image together. The candidates stay the same, because a duplicate of a
    # candidate would tie with it.
    scores = {}
    for name, items in recall_items(values, owners).items():
        if name.startswith("image"):
            scores[name] = item_mean_score(predictions, items)
        else:
            sums, counts = group_sums(items, owners)
            (score,) = corpus_score(predictions, partial(_mean_of, name, sums, counts)).values()
            scores[name] = replace(score, count=len(owners))
    return in_recall_tables(scores, scorer)


def _mean_of(name: str, sums: NDArray[Any], counts: NDArray[Any], draw: NDArray[np.int64]) -> dict[str, float]:
    return {name: float(sums[draw].sum() / counts[draw].sum())}


def in_recall_tables(scores: Mapping[str, Score], scorer: str = "") -> dict[str, Score]:
    """Return the scores with the row and column of each in the report's table of recalls."""
    in_tables = {}
    for name, score in scores.items():
        direction, _, k = name.partition("_recall_")
        row = f"{scorer}: {DIRECTIONS[direction]}" if scorer else DIRECTIONS[direction]
        in_tables[f"{scorer}_{name}" if scorer else name] = replace(score, table=(row, f"% right among the first {k}"))
    return in_tables
