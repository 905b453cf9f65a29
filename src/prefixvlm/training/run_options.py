"""Checks of options before a run trains: its length, and the names of the values that it monitors."""

from collections.abc import Mapping, Sequence
from typing import Any

from prefixvlm.metrics.score_kind import ScoreKind
from prefixvlm.options.component_check import nearest

# Logged beside losses and scores.
STATISTICS = (
    *("val/prefix_cosine", "train/cut_texts", "train/padding", "train/bad_samples", "train/lr", "train/grad_norm"),
    *("train/samples_per_second", "train/step_seconds", "train/data_wait", "train/memory_gb", "train/prefix_norm"),
    "train/token_norm",
)


def check_length(trainer: Mapping[str, Any]) -> None:
    """Raise ValueError for a run of no steps."""
    for key in ("max_steps", "max_epochs"):
        if trainer.get(key) == 0:
            raise ValueError(f"trainer.{key} is 0, so that nothing is trained; set it to 1 or more, or -1 for no limit")


def check_known(key: str, name: str, kinds: Mapping[str, ScoreKind], stages: Sequence[str] = ("val", "train")) -> None:
    """Raise ValueError for a name of a value that a run without plug-ins does not log."""
    known = [each for each in (*kinds, *STATISTICS) if each.split("/")[0] in stages]
    if not any(name == each or name.startswith(f"{each}_") for each in known):  # the latter: of a group or a part
        raise ValueError(f"{key} is {name}, which no run with these tasks logs{nearest(name, known)}")
