"""Full fine-tuning of the language model."""

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.tune.interface import Tuning, train_own


class All(Tuning):
    """Train every weight, with the model's dropout (ClipCap, Sec. 3.1, tunes GPT-2 this way)."""

    def apply(self, lm: LanguageModel) -> None:
        train_own(lm, lm.model.parameters(), "tune.all")
        lm.tuned_modules.append(lm.model)
