"""A language model goes in; its biases are trained."""

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.tune.interface import Tuning, train_own


class Biases(Tuning):
    """BitFit (Ben Zaken et al. 2022): all biases, those of the layer norms too. Dropout stays off."""

    def apply(self, lm: LanguageModel) -> None:
        named = lm.model.named_parameters()
        train_own(lm, (p for name, p in named if name.split(".")[-1] == "bias"), "tune.biases")
