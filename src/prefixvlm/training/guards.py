"""A module goes in before and after a fit; an error comes out if anything that is frozen changed."""

from lightning.pytorch import Callback, LightningModule, Trainer

from prefixvlm.training.module import PrefixModule


class FrozenGuard(Callback):
    """Ends a fit with an error if a frozen weight of the encoder or the language model changed."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule):
            self.before = pl_module.identity()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if isinstance(pl_module, PrefixModule) and pl_module.identity() != self.before:
            raise RuntimeError(f"frozen weights changed in training: {self.before} became {pl_module.identity()}")
