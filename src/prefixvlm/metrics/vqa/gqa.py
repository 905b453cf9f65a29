"""Exact match of GQA (Hudson and Manning 2019)."""

from collections.abc import Sequence

from prefixvlm.metrics.vqa.normalise import normalise


def gqa_strict(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the prediction is the same string as an answer, else 0, as GQA's eval.py does."""
    # A capital or a final full stop makes it 0: GQA's models choose from a list of answers.
    return float(prediction in answers)


def gqa_normalised(prediction: str, answers: Sequence[str]) -> float:
    """Return 1 if the prediction equals an answer, both after VQA's normalisation, else 0; for generated answers."""
    # Both sides: LAVIS normalises the prediction alone, so that no prediction can match "t-shirt".
    return float(normalise(prediction) in [normalise(answer) for answer in answers])
