"""The shuffled baseline: which prediction gets the output that the model gave for another image."""

import random
from collections import Counter
from collections.abc import Hashable, Sequence

from prefixvlm.task.results.prediction import Prediction


def donors(predictions: Sequence[Prediction], groups: Sequence[Hashable], seed: int) -> list[int]:
    """Return for each prediction the place of another one, never of the same image, whose output it gets.

    groups: of each prediction, such as its text. The other one is of the same group where that is possible, else of
    the same `Prediction.groups`, else any; within a group each output is given once. The list is empty if there is only
    one image.
    """
    if len({p.key for p in predictions}) < 2:
        return []
    rng, found = random.Random(seed), dict[int, int]()
    kinds: Sequence[Hashable] = [p.groups for p in predictions]
    for labels in (groups, kinds, [None] * len(predictions)):
        members: dict[Hashable, list[int]] = {}
        for place in range(len(predictions)):
            if place not in found:
                members.setdefault(labels[place], []).append(place)
        for places in members.values():
            found |= _rotation(predictions, places, rng)
    # What is left has no partner of another image that is left too.
    for place in range(len(predictions)):
        if place not in found:
            others = [other for other, p in enumerate(predictions) if p.key != predictions[place].key]
            found[place] = rng.choice(others)
    return [found[place] for place in range(len(predictions))]


def _rotation(predictions: Sequence[Prediction], places: Sequence[int], rng: random.Random) -> dict[int, int]:
    """Return the other place of each place, without those for which it would be of the same image."""
    by_image: dict[str, list[int]] = {}
    for place in rng.sample(places, len(places)):
        by_image.setdefault(predictions[place].key, []).append(place)
    # With the places of an image side by side, a rotation by the largest number of places that an image has leaves no
    # output at its image, unless one image has more than half of all.
    ordered = [place for same in by_image.values() for place in same]
    step = max(map(len, by_image.values()))
    pairs = ((place, ordered[(index + step) % len(ordered)]) for index, place in enumerate(ordered))
    return {place: other for place, other in pairs if predictions[place].key != predictions[other].key}


def shares(predictions: Sequence[Prediction], groups: Sequence[Hashable], chosen: Sequence[int]) -> dict[str, int]:
    """Return how many predictions have the output of another with the same text, of the same kind, and of any."""
    counts = Counter(
        "same_text" if groups[place] == groups[other]
        else "same_kind" if predictions[place].groups == predictions[other].groups
        else "any"
        for place, other in enumerate(chosen)
    )  # fmt: skip
    return {name: counts[name] for name in ("same_text", "same_kind", "any")}
