"""What a checkpoint holds, and whether it fits a model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from prefixvlm.checkpoint.hub_folder import find
from prefixvlm.data.shards.manifest import sha256

KEY = "prefixvlm"  # key of our own entries in Lightning's checkpoint: config, identity, lineage, provenance, ...
EMA = "ema"  # key of the Ema callback's raw tensors; the averages are the trained tensors of the checkpoint
AVERAGED = "averaged"  # key under which that callback passes averaged tensors to PrefixModule.on_save_checkpoint


class RunRecord:
    """Description of a run in its checkpoints.

    config: plain data from which the module can be built again. provenance: commit, versions and command of the run.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, provenance: Mapping[str, Any] | None = None) -> None:
        # Plain dicts: a DictConfig in a checkpoint cannot be read with weights_only=True.
        self.config, self.provenance = dict(config or {}), dict(provenance or {})

    def content(
        self,
        identity: Mapping[str, str],
        lineage: Sequence[Mapping[str, Any]],
        rng: Sequence[Mapping[str, Tensor]],
        cut_texts: int,
    ) -> dict[str, Any]:
        """Return our own entries of a checkpoint, all of them plain data.

        Beside them Lightning's checkpoint holds the trained tensors (`state_dict`, without what is frozen) and, for a
        run to resume from, optimizer, schedule, loops, callbacks, and the place in the data.
        identity: fingerprints of the frozen parts. lineage: the checkpoints that the run started from.
        rng: random states by rank. cut_texts: counted so far.
        """
        return {
            "config": self.config, "identity": identity, "lineage": lineage, "provenance": self.provenance, "rng": rng,
            "cut_texts": cut_texts,
        }  # fmt: skip


def lineage(path: str | Path, checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lineage of a run that starts from a checkpoint: the checkpoint after its own lineage."""
    # The hash identifies the file wherever it is moved.
    parent = {"checkpoint": str(path), "sha256": sha256(find(path)), "step": checkpoint.get("global_step", 0)}
    return [*checkpoint[KEY].get("lineage", []), parent]


def for_evaluation(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a checkpoint that an evaluation reads; without optimizer, loops and place in the data."""
    kept = {key: checkpoint[key] for key in ("epoch", "global_step", "pytorch-lightning_version", "state_dict")}
    callbacks = {name: state for name, state in checkpoint["callbacks"].items() if name == "History"}  # for the report
    ours = {key: value for key, value in checkpoint[KEY].items() if key != "rng"}
    return {**kept, "callbacks": callbacks, KEY: ours}


def is_resumable(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether a checkpoint holds what a run resumes from."""
    return "optimizer_states" in checkpoint


def check_tensors(trained: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless the trained tensors of the model and of the file have the same names and shapes."""
    # load_state_dict(strict=False), which the missing frozen tensors require, ignores a renamed trained tensor.
    ours, theirs = ({f"{name} {tuple(t.shape)}" for name, t in side.items()} for side in (trained, stored))
    if ours != theirs:
        raise ValueError(
            f"the checkpoint does not fit the model: it lacks {sorted(ours - theirs)[:3] or 'nothing'} and has "
            f"{sorted(theirs - ours)[:3] or 'nothing'} that the model does not train; use the configuration that it "
            "was trained with"
        )


def check_identity(ours: dict[str, Any], stored: dict[str, Any]) -> None:
    """Raise ValueError unless the frozen parts are those that the mapper was trained with."""
    # A prefix means nothing to another language model, even if all shapes fit.
    for part in stored:
        if ours.get(part) != stored[part]:
            raise ValueError(
                f"the checkpoint was trained with {part} {stored[part]} but this {part} is {ours.get(part)}; "
                f"set {part} to the one it was trained with"
            )
