"""Keeps the k best checkpoints beside the single best one."""

from prefixvlm.callbacks.best_checkpoint import BestCheckpoint


class TopK(BestCheckpoint):
    """BestCheckpoint under a second name.

    Lightning stores callbacks' states by class name and options, and refuses two of one class with the same monitor.
    """
