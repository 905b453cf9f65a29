"""VizWiz's two metrics (Gurari et al. 2018): accuracy of answers, and average precision of answerability.

After the challenge's vqaEval.py (Qing Li), run by Python 3.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from prefixvlm.metrics.vqa.accuracy import leave_one_out
from prefixvlm.metrics.vqa.contractions import CONTRACTIONS
from prefixvlm.metrics.vqa.normalise import process_punctuation, process_words, strip_lines

# VizWiz copied an early table of VQA, in which most apostrophes are typographic, in keys and values, and some are not.
_STRAIGHT_KEYS = frozenset(("couldn'tve", "hadn'tve"))
_STRAIGHT_VALUES = frozenset(("ain't", "aren't", "can't", "could've", "couldn't", "we've", "where's", "who've"))
_CONTRACTIONS = {
    key if key in _STRAIGHT_KEYS else key.replace("'", "\u2019"): (
        value if value in _STRAIGHT_VALUES else value.replace("'", "\u2019")
    )
    for key, value in CONTRACTIONS.items()
}


def vizwiz_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Return VQA accuracy, 0 to 1, with the prediction always normalised and the answers never."""
    # The answers of VizWiz are published in normalised form.
    return leave_one_out(_normalise(prediction), answers)


def average_precision(labels: Sequence[bool], scores: Sequence[float]) -> float:
    """Return average precision, 0 to 1: the sum of (R_n - R_(n-1)) P_n over thresholds, as scikit-learn defines it.

    VizWiz's positive label is "unanswerable", its score one minus that of answerable.
    Raises ValueError if no label is positive, since average precision is undefined then.
    """
    positive, values = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
    if positive.shape != values.shape or positive.ndim != 1:
        raise ValueError(
            f"there are {positive.size} labels but {values.size} scores; one score for each label is needed"
        )
    if not np.isfinite(values).all():
        raise ValueError("a score is not a finite number, so the items cannot be ranked")
    if not positive.any():
        raise ValueError("no label is positive, so average precision is undefined")
    order = np.argsort(-values, kind="stable")
    # Equal scores share one threshold, so that their order in the file makes no difference.
    last_of_step = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
    hits = np.cumsum(positive[order])[last_of_step]
    return float(np.sum(np.diff(hits / hits[-1], prepend=0.0) * hits / (last_of_step + 1)))


@lru_cache(maxsize=1 << 17)
def _normalise(text: str) -> str:
    return process_words(process_punctuation(strip_lines(text)), _CONTRACTIONS)
