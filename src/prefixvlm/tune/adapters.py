"""Bottleneck adapters in the blocks of a frozen language model."""

import re
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.options.ranges import Size
from prefixvlm.tune.interface import Tuning

# Names of the modules in a block after which adapters go; they must come before the residual is added. Where the MLP or
# the attention adds it itself (BERT, BLOOM), or is no module (OPT's MLP), the adapter follows its last matrix.
LAST_MATRIX = {
    "mlp": re.compile(r"output\.dense|mlp\.dense_4h_to_h|fc2"),
    "attention": re.compile(r"attention\.output\.dense|self_attention\.dense"),
}
WHOLE_MODULE = {
    "mlp": re.compile(r"mlp|feed_forward|layer\.\d\.DenseReluDense"),
    "attention": re.compile(r"attn|attention|self_attn|self_attention|layer\.0\.SelfAttention"),
}


class Adapters(Tuning):
    """Bottleneck adapters (Houlsby et al. 2019; MAGMA, Eichenberg et al. 2022, Sec. 3.3).

    mlp, attention: width of the model over that of the adapters after its MLPs or attentions, or null for no adapters
    (MAGMA: 4 and none, or 8 and 8). parallel: adapters take the input of the MLP or attention (He et al. 2022).
    """

    def __init__(self, mlp: Size | None = 4, attention: Size | None = None, parallel: bool = False) -> None:
        if not (mlp or attention) or min(mlp or 1, attention or 1) < 1:
            raise ValueError(
                f"tune.adapters.mlp is {mlp} and attention {attention}; accepted are null, for one of them, and 1 or "
                "more"
            )
        self.places = {place: factor for place, factor in (("mlp", mlp), ("attention", attention)) if factor}
        self.parallel = parallel

    def apply(self, lm: LanguageModel) -> None:
        width = lm.model.config.get_text_config().hidden_size
        for block in lm.blocks:
            device = next(block.parameters()).device
            for place, factor in self.places.items():
                part = self._part(block, place)
                if part is None:
                    how = " with parallel=true" if self.parallel else ""
                    raise ValueError(
                        f"tune.adapters.{place}{how} finds no place in {type(block).__name__}; set tune to another"
                    )
                part.adapter = Adapter(width, max(1, width // factor)).to(device)
                # A hook keeps the names of the frozen weights, and takes the adapter from the module that it is called
                # with, so that a copied model uses its own.
                part.register_forward_hook(_parallel if self.parallel else _sequential, with_kwargs=True)

    def _part(self, block: nn.Module, place: str) -> Any:
        # A parallel adapter needs the input of the whole module, so a last matrix is no place for it.
        for pattern in (WHOLE_MODULE[place],) if self.parallel else (LAST_MATRIX[place], WHOLE_MODULE[place]):
            for name, part in block.named_modules():
                if pattern.fullmatch(name):
                    return part
        return None

    def merge(self, lm: LanguageModel) -> None:
        raise ValueError("adapters are no change of weights, and cannot be merged; tune.lora can")


class Adapter(nn.Module):
    """up(relu(down(x))) in float32, whatever the dtype of the model."""

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        # Zero output at first: training starts from the pretrained model.
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.up(F.relu(self.down(hidden.to(self.down.weight.dtype)))).to(hidden.dtype)


def _sequential(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return _add(output, part.adapter(output[0] if isinstance(output, tuple) else output))


def _parallel(part: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
    return _add(output, part.adapter(args[0] if args else kwargs["hidden_states"]))


def _add(output: Any, added: Tensor) -> Any:
    # Attention modules return a tuple of the hidden states and the attention weights.
    return (output[0] + added, *output[1:]) if isinstance(output, tuple) else output + added
