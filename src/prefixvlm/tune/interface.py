"""What a way of tuning is: a frozen language model goes in; with something of it trained, it comes out the same."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

from prefixvlm.lm.interface import LanguageModel


class Tuning(ABC):
    """A way of tuning. Several may be applied to one language model, in any order."""

    @abstractmethod
    def apply(self, lm: LanguageModel) -> None:
        """Raises ValueError for a language model that cannot be tuned so."""

    def merge(self, lm: LanguageModel) -> None:  # noqa: B027  (most train weights that need no merging)
        """Put what was trained into the weights that the model was loaded with. Raises ValueError if it cannot be."""


def train_own(lm: LanguageModel, parameters: Iterable[nn.Parameter], key: str) -> None:
    """Train weights that the model was loaded with; key: what of the configuration asks for it.

    Raises ValueError if there are none, or if they are not float32: smaller ones lose small steps.
    """
    chosen = list(parameters)
    if not chosen:
        raise ValueError(f"{key} finds nothing in {type(lm.model).__name__} to train; set tune to another")
    if others := {parameter.dtype for parameter in chosen} - {torch.float32}:
        also = " and lm.quantization=null" if getattr(lm.model, "is_quantized", False) else ""
        raise ValueError(f"{key} trains weights that are {others.pop()}; set lm.dtype=float32{also}")
    for parameter in chosen:
        parameter.requires_grad_(True)
    lm.own_weights_tuned = True
