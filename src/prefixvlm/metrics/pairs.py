"""Checks that predictions and references belong together."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

Id = TypeVar("Id", bound=Hashable)
References = Sequence[Sequence[str]]


def check_lists(predictions: Sequence[str], references: References) -> None:
    """Raise ValueError unless there is a non-empty list of references for each prediction."""
    if len(predictions) != len(references):
        raise ValueError(f"there are {len(predictions)} predictions but {len(references)} lists of references")
    if not predictions:
        raise ValueError("there are no predictions to score")
    for index, truths in enumerate(references):
        _check_references(index, truths)


def check_ids(predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]) -> None:
    """Raise ValueError unless predictions and references have the same ids, each with at least one reference."""
    # Both directions: a score over the common ids alone would rise when a system leaves hard images out.
    differences = (
        (references.keys() - predictions.keys(), "without a prediction"),
        (predictions.keys() - references.keys(), "without references"),
    )
    if any(ids for ids, _ in differences):
        parts = [f"{len(ids)} {what} ({some(ids)})" for ids, what in differences if ids]
        raise ValueError(f"the ids of predictions and references differ: {' and '.join(parts)}")
    if not predictions:
        raise ValueError("there are no predictions to score")
    for id, truths in references.items():
        _check_references(id, truths)


def _check_references(id: Hashable, truths: Sequence[str]) -> None:
    # A string is a sequence of strings to Python: without this check each letter would be a reference.
    if isinstance(truths, str):
        raise ValueError(f"the references of item {id!r} are one string, {truths!r}, where a list of strings is needed")
    if not truths:
        raise ValueError(f"item {id!r} has no reference, so it cannot be scored")


def some(ids: Iterable[Hashable]) -> str:
    """Return the first three ids for an error message, with an ellipsis if there are more."""
    names = sorted(repr(id) for id in ids)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
