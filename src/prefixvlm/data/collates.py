"""The collate functions of a data module, one for each of its loaders."""

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, NoReturn

from prefixvlm.data.loading.make_batch import Collate
from prefixvlm.data.sample import Sample


def _no_collate(samples: Sequence[Sample], rng: random.Random) -> NoReturn:
    raise TypeError("the loaders of this data module need `collates`, which is not set")


class Collates(NamedTuple):
    """Collate functions for training, for the validation loss, and by task for predictions: a loader each, in order."""

    train: Collate = _no_collate
    val: Collate = _no_collate
    test: Mapping[str, Collate] = MappingProxyType({})
