"""A language model goes in; its last transformer blocks and what normalises their output are trained."""

from prefixvlm.lm.interface import LanguageModel
from prefixvlm.tune.interface import Tuning, train_own
from prefixvlm.tune.layer_norms import norms


class LastBlocks(Tuning):
    """The last n blocks, with their dropout in training, and the final norm."""

    def __init__(self, n: int = 2) -> None:
        self.n = n

    def apply(self, lm: LanguageModel) -> None:
        blocks = lm.blocks
        if not 1 <= self.n <= len(blocks):
            raise ValueError(f"tune.last_blocks.n is {self.n}; accepted are 1 to {len(blocks)}, the number of blocks")
        inside = {id(module) for block in blocks for module in block.modules()}
        final = [
            norm
            for name, norm in norms(lm.model.base_model).items()
            if id(norm) not in inside and "embed" not in name  # BLOOM and BERT have one before the blocks
        ]
        chosen = blocks[-self.n :]
        train_own(lm, (p for module in (*chosen, *final) for p in module.parameters()), "tune.last_blocks")
        lm.tuned_modules += chosen
