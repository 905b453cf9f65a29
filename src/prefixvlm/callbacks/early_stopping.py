"""Early stopping, of which a resumed run may change the patience."""

from typing import Any

from lightning.pytorch import callbacks


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, which would take the patience of the checkpoint and not that of the configuration."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})
