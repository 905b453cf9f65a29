"""Fine-tuning of the layer norms."""

from torch import nn

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.tune.interface import Tuning, train_own


class LayerNorms(Tuning):
    """Train gains and biases of all layer norms and RMSNorms (Lu et al. 2021, Frozen Pretrained Transformers).

    Dropout stays off.
    """

    def apply(self, lm: LanguageModel) -> None:
        train_own(lm, (p for norm in norms(lm.model).values() for p in norm.parameters()), "tune.layer_norms")


def norms(module: nn.Module) -> dict[str, nn.Module]:
    """Return the normalization layers in a module, by name."""
    # Each model of transformers has a norm class of its own; all have Norm in their names.
    return {
        name: part
        for name, part in module.named_modules()
        if "norm" in type(part).__name__.lower()
        and not list(part.children())
        and all(parameter.ndim == 1 for parameter in part.parameters())
    }
