"""Keeps the k best checkpoints beside the single best one."""

from lightning.pytorch.callbacks import ModelCheckpoint


class TopK(ModelCheckpoint):
    """Lightning's ModelCheckpoint under a second name.

    Lightning stores callbacks' states by class name and options, and refuses two of one class with the same monitor.
    """
