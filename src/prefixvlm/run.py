"""A training run before and after Lightning's fit: resuming, the summary, the monitored value, and the end."""

import math
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from prefixvlm.distributed import launch
from prefixvlm.distributed.signals import StoppedBySignal
from prefixvlm.distributed.world import rank, tell_if_waiting
from prefixvlm.lock import only_process
from prefixvlm.logger.wandb import finish
from prefixvlm.metrics.score_kind import ScoreKind, kind_of
from prefixvlm.model.trained_state import count_parameters, named_parts
from prefixvlm.training import objective
from prefixvlm.training.checkpoint_file import FOR_EVALUATION, LAST
from prefixvlm.training.run_options import check_known, check_length


def quiet_known_warnings() -> None:
    """Silence known warnings, which every run gives and which need no action."""
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
        r"MatMul8bitLt: inputs will be cast from",  # an int8 language model computes in float16
        r"Found \d+ module\(s\) in eval mode",  # the frozen parts are meant to be
        r"The '\w+_dataloader' does not have many workers",  # data.num_workers is the user's choice
        r"It is recommended to use `self.log\('(test|val)/",  # rank 0 has computed the value from all ranks
    ):
        warnings.filterwarnings("ignore", message)


def only_run(run_dir: str) -> AbstractContextManager[None]:
    """Lock the folder of a run, on behalf of all its processes. Raises ValueError if another run is going on in it."""
    if rank() or launch.is_launched():
        return nullcontext()
    refusal = f"another process is training in {run_dir}; wait for it, stop it, or set another hydra.run.dir"
    return only_process(Path(run_dir), refusal)


def check_options(cfg: Any, kinds: Mapping[str, ScoreKind]) -> None:
    """Raise ValueError if a run would train nothing, or wait for a value that it never logs."""
    check_length(cfg.trainer)
    check_monitor(cfg.monitor, cfg.monitor_mode, kinds)
    if not cfg.plugins:  # which may log anything
        check_known("monitor", cfg.monitor, kinds)
        for name, node in (cfg.callbacks or {}).items():
            if node and node.get("monitor"):
                check_known(f"callbacks.{name}.monitor", node["monitor"], kinds)
        for name in cfg.objectives or ():
            check_known("objectives", name, kinds, ("val", "train", "test"))


def check_monitor(monitor: str, mode: str, kinds: Mapping[str, ScoreKind]) -> None:
    """Raise ValueError if monitor_mode would keep the worst checkpoint. kinds: kinds of scores by logged name."""
    kind = kind_of(monitor, kinds)
    higher_is_better = kind.higher_is_better if kind else None
    if higher_is_better is None:
        return
    best = "max" if higher_is_better else "min"
    if mode != best:
        raise ValueError(f"monitor_mode is {mode}, but {monitor} is best at its {best}imum; set monitor_mode={best}")


def print_summary(module: LightningModule, config: dict[str, Any], trainer: Trainer) -> None:
    """Print the trained parts, and log the configuration with its provenance."""
    if trainer.is_global_zero:
        print("\n".join(summary_of(module, config.get("tune") or ())))
    record: Any = module.record
    # A plain dict: a DictConfig would be logged with nested nodes as text.
    for logger in trainer.loggers:
        logger.log_hyperparams({**config, "provenance": record.provenance})


def summary_of(module: LightningModule, tuned: Iterable[str] = ()) -> list[str]:
    """Return a line for each part with its trained and frozen parameters, learning rate and weight decay.

    tuned: names of the methods that tune the language model.
    """
    optim: Any = module.optim
    groups = {id(p): group for group in optim.groups(module.named_parameters()) for p in group["params"]}
    lines = []
    for name, part in named_parts(getattr(module, "model", module)):
        trained, frozen = count_parameters(part)
        shown = f"lm: {', '.join(tuned)}" if name == "lm" and tuned else name
        line = f"{shown:24} {trained / 1e6:9.2f} M trained {frozen / 1e6:9.2f} M frozen"
        if part_groups := [groups[id(p)] for p in part.parameters() if p.requires_grad]:
            decay = max(group["weight_decay"] for group in part_groups)
            line += f"   learning rate {part_groups[0]['lr']:g}, weight decay {decay:g}"
        if trained + frozen:
            lines.append(line)
    return lines


def finish_fit(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, run_dir: str, monitor: str
) -> float | None:
    """Return the best value of `monitor`. Saves and validates if the run was too short to do so."""
    if trainer.is_global_zero and (cut := cut_texts(module)):
        print(cut)
    last = Path(run_dir) / "checkpoints" / LAST
    # Rank 0 decides for all, because the others may see its file later, and saving is a collective.
    if trainer.strategy.broadcast(not last.is_file()):
        trainer.save_checkpoint(last)
    for callback in _monitoring(trainer):
        if callback.monitor == monitor and callback.best_model_score is not None:
            return float(callback.best_model_score)
    if monitor not in trainer.callback_metrics:
        trainer.validate(module, data, verbose=False)
    best = last.with_name("best.ckpt")
    if trainer.strategy.broadcast(bool(_monitoring(trainer)) and not best.exists()):  # there is only one checkpoint
        trainer.save_checkpoint(best, storage_options=FOR_EVALUATION)
    value = trainer.callback_metrics.get(monitor)
    if value is None and trainer.limit_val_batches:
        raise ValueError(
            f"monitor is {monitor}, which was not logged; logged are {', '.join(trainer.callback_metrics)}"
        )
    return None if value is None else float(value)


def cut_texts(module: Any) -> str:
    """Return a sentence about the texts that were cut in training, "" if none was."""
    if not (number := int(getattr(module, "cut_texts", 0))):
        return ""
    length, process = module.max_target_length, "the first process" if module.trainer.world_size > 1 else "training"
    limit = f"module.max_target_length={length} tokens" if length else "the end of the language model's context"
    key = "module.max_target_length to more" if length else "mapper.prefix_length or the prompt to less"
    return f"{number} texts of {process} were cut at {limit}, counted again in each epoch; set {key} to keep them whole"


def best_checkpoint(trainer: Trainer, run_dir: str) -> str:
    """Return the best checkpoint of the callback that monitors a value, or the last checkpoint."""
    best = [callback.best_model_path for callback in _monitoring(trainer) if callback.best_model_path]
    return best[0] if best else str(Path(run_dir) / "checkpoints" / LAST)


def _monitoring(trainer: Trainer) -> list[ModelCheckpoint]:
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]


def print_scores(module: Any) -> None:
    """Print the scores of the last test, on rank 0."""
    for name, report in module.reports.items() if module.global_rank == 0 else ():
        for score, value in report["scores"].items():
            print(f"test {name:16} {score:24} {value:10.4g}")


def logged_values(names: Sequence[str], logged: Mapping[str, Any]) -> list[float]:
    """Return the last logged value of each name. Raises ValueError if one was not logged."""
    for name in names:
        if name not in logged:
            raise ValueError(f"objectives has {name!r}, which was not logged; logged are {', '.join(logged)}")
    return [float(logged[name]) for name in names]


def write_objective(config: Mapping[str, Any], value: Any, trainer: Trainer, kinds: Mapping[str, ScoreKind]) -> None:
    """Write the value of the run and the directions of its scores to objective.json on rank 0, for a sweep.

    value: a number, several or None; None is written if one is not finite.
    """
    if trainer.is_global_zero:
        pruned = any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        directions = {name: kind.higher_is_better for name, kind in kinds.items()}
        if value is not None and not all(map(math.isfinite, value if isinstance(value, list) else [value])):
            value = None
        objective.write(config["run_dir"], config, value=value, pruned=pruned, higher_is_better=directions)


@contextmanager
def finish_run(trainer: Trainer, run_dir: str) -> Iterator[None]:
    """Finish the loggers however the block ends, and turn Lightning's configuration errors into ValueError."""
    # An unfinished run of wandb would continue in the next job of the process (wandb #1314).
    code, preempted = 1, False
    tell_if_waiting()
    try:
        yield
        code = 0
    except StoppedBySignal as stop:
        code, preempted = int(str(stop.code)), stop.signum != signal.SIGINT
        if trainer.is_global_zero:
            name, step = signal.Signals(stop.signum).name, trainer.global_step
            print(
                f"\nStopped by {name} at step {step}. The same command with hydra.run.dir={run_dir} resumes.",
                file=sys.stderr,
            )
        raise
    except MisconfigurationException as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
    finally:
        finish(trainer.loggers, code, preempted)
        if torch.distributed.is_initialized() and not code:
            torch.distributed.destroy_process_group()
