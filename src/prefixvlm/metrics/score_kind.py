"""How a score is read: in which direction it is better, and with how many digits it is shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class ScoreKind:
    """higher_is_better: None where neither direction is. digits: after the point; None for three significant ones.

    of_images: False for a score that does not change when predictions are given to other images, as a mean length.
    """

    higher_is_better: bool | None = True
    digits: int | None = 2
    of_images: bool = True

    def decimals(self, value: float) -> int:
        """The digits after the point that a value of this kind is shown with."""
        if self.digits is not None:
            return self.digits
        return 2 - math.floor(math.log10(abs(value))) if 0 < abs(value) < 1 else 2


PERCENT = ScoreKind()
RATIO = ScoreKind(digits=3)  # scores that run to 1 or 10, as BLEU and CIDEr
ERROR = ScoreKind(higher_is_better=False, digits=None)  # in the unit of what is predicted
LOSS = ScoreKind(higher_is_better=False, digits=3)
DESCRIPTION = ScoreKind(higher_is_better=None, of_images=False)  # such as a mean length


def kind_of(name: str, kinds: Mapping[str, ScoreKind]) -> ScoreKind | None:
    """The kind of a score by its name, or by the name that a group's score extends, as accuracy_what does accuracy."""
    if name in kinds:
        return kinds[name]
    parents = [parent for parent in kinds if name.startswith(f"{parent}_")]
    return kinds[max(parents, key=len)] if parents else None
