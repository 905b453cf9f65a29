"""Base class of caption metrics: scores of captions against references."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prefixvlm.metrics.captions.words import Words
from prefixvlm.metrics.score_kind import ScoreKind


@dataclass(frozen=True)
class CaptionResult:
    """items: scores that are a mean over captions, with each caption's value.

    corpus: from the indices of some captions to their scores as a whole, for scores that are not such a mean; it is
    called for every draw of the bootstrap. values: scores without an interval.
    """

    items: Mapping[str, Sequence[float]] = field(default_factory=dict)
    corpus: Callable[[NDArray[np.int64]], Mapping[str, float]] | None = None
    values: Mapping[str, float] = field(default_factory=dict)


class CaptionMetric(ABC):
    """A metric of captions. Subclasses set the attributes and define `__call__`.

    score_kinds: direction and digits of each of its scores, by name.
    variant: stands beside the scores; name in it whatever makes them incomparable, such as a tokenizer.
    """

    score_kinds: Mapping[str, ScoreKind]
    variant: str

    @abstractmethod
    def __call__(self, predictions: Sequence[str], references: Sequence[Sequence[str]], words: Words) -> CaptionResult:
        """Score raw captions, each against its references. words: the tokenizer for this language."""
