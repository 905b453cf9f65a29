"""What differs between the options of a resumed run and those of its checkpoint, and which of them may."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from prefixvlm.training.checkpoint import KEY
from prefixvlm.training.checkpoint_file import read

NOT_OPTIONS = ("resume", "run_dir", "test", "trainer.default_root_dir")  # no part of the training
# Options of an optimizer that do not change what its state holds.
OPTIMIZER = ("betas", "eps", "momentum", "dampening", "nesterov", "alpha", "fused", "foreach")


def changed_options(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the options that differ, by their keys, with the former and the present value; None for no value."""
    old, new = _flat(before), _flat(now)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return {key: (old.get(key), new.get(key)) for key in keys if key not in NOT_OPTIONS}


def check_changes(changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Raise ValueError for an option that a resumed run cannot change."""
    for key, (before, now) in changes.items():
        own = key.removeprefix("optim.optimizer.")
        if own != key and own not in OPTIMIZER:
            reason = "the optimizer's state does not fit"
        elif key == "optim.weight_decay" and not (before and now):
            reason = "the optimizer's groups are others with and without decay"
        elif key == "encoder.exact_pixels" and before is None and not now:
            reason = "its mapper has learned from exact pixels, as all had before there was the option"
            before = True
        elif key == "init_from" and now is not None:
            reason = "the run has its weights already"
        else:
            continue
        raise ValueError(
            f"{key} is {now}, but the run in this folder has {before}, and {reason}; set it to that, or set "
            "hydra.run.dir to another folder or resume=never"
        )


def description_of(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the changes as words for one line: KEY=NOW (was BEFORE), ..."""
    return ", ".join(f"{key}={now} (was {before})" for key, (before, now) in changes.items())


def check_resumed(path: str, module: Any, trainer: Trainer) -> None:
    """Print from where a run goes on, and what has changed. Raises ValueError for a change that is not possible."""
    checkpoint = read(path)
    changes = changed_options(checkpoint.get(KEY, {}).get("config", {}), module.record.config)
    check_changes(changes)
    if trainer.is_global_zero:
        with_changes = f", from there on with {description_of(changes)}" if changes else ""
        print(f"The run goes on from step {checkpoint['global_step']}{with_changes}")


def resumed_lineage(checkpoint: Mapping[str, Any], config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the lineage of a run that goes on from its checkpoint, with the options that have changed at its end."""
    ours = checkpoint[KEY]
    changed = {key: list(values) for key, values in changed_options(ours["config"], config).items()}
    return [*ours["lineage"], *([{"resumed_at": checkpoint["global_step"], "changed": changed}] if changed else [])]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        elif value not in (None, {}):
            flat[f"{prefix}{name}"] = value
    return flat
