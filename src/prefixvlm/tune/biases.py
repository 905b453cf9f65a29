"""BitFit: fine-tuning of the biases."""

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.tune.interface import Tuning, train_own


class Biases(Tuning):
    """Train all biases, those of layer norms included (BitFit, Ben Zaken et al. 2022). Dropout stays off."""

    def apply(self, lm: LanguageModel) -> None:
        named = lm.model.named_parameters()
        train_own(lm, (p for name, p in named if name.split(".")[-1] == "bias"), "tune.biases")
