"""Tuning, the base class of fine-tuning methods."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

import torch
from torch import nn

from prefixvlm.lm.interface import LanguageModel


class Tuning(ABC):
    """A fine-tuning method. Several may be applied to one language model, in any order."""

    @abstractmethod
    def apply(self, lm: LanguageModel) -> None:
        """Make part of the model trainable, in place. Raises ValueError if the method does not fit the model."""

    def merge(self, lm: LanguageModel) -> None:
        """Merge added weights into the pretrained ones, in place. Raises ValueError if the method cannot."""


def train_own(lm: LanguageModel, parameters: Iterable[nn.Parameter], key: str) -> None:
    """Make pretrained parameters trainable. key: the configuration key for messages.

    Raises ValueError if there are none, or if they are not float32.
    """
    chosen = list(parameters)
    if not chosen:
        raise ValueError(f"{key} finds nothing in {type(lm.model).__name__} to train; set tune to another")
    # In bfloat16 an update of less than about 1/256 of a weight is rounded away.
    if others := {parameter.dtype for parameter in chosen} - {torch.float32}:
        also = " and lm.quantization=null" if getattr(lm.model, "is_quantized", False) else ""
        raise ValueError(f"{key} trains weights that are {others.pop()}; set lm.dtype=float32{also}")
    for parameter in chosen:
        parameter.requires_grad_(True)
    lm.own_weights_tuned = True
