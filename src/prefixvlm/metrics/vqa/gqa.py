"""An answer and the true answers go in; whether they match comes out, as GQA counts it (Hudson and Manning 2019)."""

from collections.abc import Sequence

from prefixvlm.metrics.vqa.normalise import normalise


def gqa_strict(prediction: str, answers: Sequence[str]) -> float:
    """0 or 1: the very same string, as in GQA's eval.py. A capital or a full stop at the end makes it 0."""
    return float(prediction in answers)


def gqa_normalised(prediction: str, answers: Sequence[str]) -> float:
    """0 or 1: the same after VQA's normalisation of both sides, for what is generated rather than chosen.

    LAVIS normalises the prediction alone, so that no prediction can ever match "t-shirt".
    """
    return float(normalise(prediction) in [normalise(answer) for answer in answers])
