"""A language model goes in; all of it is trained."""

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.tune.interface import Tuning, train_own


class All(Tuning):
    """Every weight, with the model's dropout in training (ClipCap, Sec. 3.1, tunes GPT-2 so)."""

    def apply(self, lm: LanguageModel) -> None:
        train_own(lm, lm.model.parameters(), "tune.all")
        lm.tuned_modules.append(lm.model)
