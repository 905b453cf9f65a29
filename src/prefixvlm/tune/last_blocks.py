"""Fine-tuning of the last transformer blocks and the final norm."""

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.options.ranges import Positive
from prefixvlm.tune.interface import Tuning, train_own
from prefixvlm.tune.layer_norms import norms


class LastBlocks(Tuning):
    """Train the last n blocks, with their dropout, and the norm after them."""

    def __init__(self, n: Positive = 2) -> None:
        self.n = n

    def apply(self, lm: LanguageModel) -> None:
        blocks = lm.blocks
        if not 1 <= self.n <= len(blocks):
            raise ValueError(f"tune.last_blocks.n is {self.n}; accepted are 1 to {len(blocks)}, the number of blocks")
        chosen = blocks[-self.n :]
        inside = {id(module) for block in blocks for module in block.modules()}
        # A block is named STACK.LIST.NUMBER, as decoder.block.5, and its final norm STACK.NAME.
        stacks = {name.rpartition(".")[0].rpartition(".")[0] for name, module in lm.model.base_model.named_modules()
                  if any(module is block for block in chosen)}  # fmt: skip
        final = [
            norm
            for name, norm in norms(lm.model.base_model).items()
            # BLOOM also has a norm before its blocks, and each of T5's two stacks has a final norm.
            if id(norm) not in inside and "embed" not in name and name.rpartition(".")[0] in stacks
        ]
        train_own(lm, (p for module in (*chosen, *final) for p in module.parameters()), "tune.last_blocks")
        lm.tuned_modules += chosen
