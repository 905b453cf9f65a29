"""What a run does around Lightning's fit: where it resumes, what it announces, how it ends its loggers."""

import json
import re
import shutil
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from prefixvlm.distributed.signals import StoppedBySignal
from prefixvlm.logger.wandb import finish
from prefixvlm.model.trained_state import count_parameters
from prefixvlm.provenance.record import provenance
from prefixvlm.training.checkpoint import LAST, newest

OBJECTIVE = "objective.json"
LOWER_IS_BETTER = re.compile(r"loss$|_(mae|rmse)$")
HIGHER_IS_BETTER = re.compile(
    r"_(accuracy|exact_match|cider|bleu_\d|rouge_l|f1(_50)?|r2|map(_\d+)?|recall_\d+|mean_overlap)$"
)
RESUME = ("auto", "must", "never")


def quiet_known_warnings() -> None:
    """Silence, by name, what warns in every run and asks nothing of its user."""
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
        r"MatMul8bitLt: inputs will be cast from",  # an int8 language model computes so
        r"Found \d+ module\(s\) in eval mode",  # the frozen parts: that is the point
        r"The '\w+_dataloader' does not have many workers",  # data.num_workers is the user's choice
        r"It is recommended to use `self.log\('(test|val)/",  # every rank logs what rank 0 has computed for all
    ):
        warnings.filterwarnings("ignore", message)


def checkpoint_to_resume(run_dir: str, resume: str) -> str | None:
    """The newest checkpoint in run_dir that can be read, if the run is to go on from there."""
    if resume not in RESUME:
        raise ValueError(f"resume is {resume!r}; accepted are {', '.join(RESUME)}")
    folder = Path(run_dir) / "checkpoints"
    found = None if resume == "never" else newest(folder)
    if resume == "must" and found is None:
        raise ValueError(
            f"there is no {folder / LAST} to resume from; set hydra.run.dir to the run's folder or resume=auto"
        )
    return None if found is None else str(found)


def check_monitor(monitor: str, mode: str) -> None:
    """Raises ValueError where the best checkpoint would be the worst."""
    best = "min" if LOWER_IS_BETTER.search(monitor) else "max" if HIGHER_IS_BETTER.search(monitor) else mode
    if mode != best:
        raise ValueError(f"monitor_mode is {mode}, but {monitor} is best at its {best}imum; set monitor_mode={best}")


def announce(module: LightningModule, config: dict[str, Any], trainer: Trainer) -> None:
    """Say what trains, and give the configuration to the loggers as nested values."""
    if trainer.is_global_zero:
        print("\n".join(what_trains(module, config.get("tune") or ())))
    module.provenance = provenance()  # type: ignore[assignment]
    for logger in trainer.loggers:
        logger.log_hyperparams({**config, "provenance": module.provenance})


def what_trains(module: LightningModule, tuned: Iterable[str] = ()) -> list[str]:
    """A line a part: its trained and frozen parameters, and with which learning rate and weight decay it trains.

    tuned: the ways in which the language model is.
    """
    optim: Any = module.optim
    groups = {id(p): group for group in optim.groups(module.named_parameters()) for p in group["params"]}
    lines = []
    for name, part in _parts(getattr(module, "model", module)):
        trained, frozen = count_parameters(part)
        shown = f"lm: {', '.join(tuned)}" if name == "lm" and tuned else name
        line = f"{shown:24} {trained / 1e6:9.2f} M trained {frozen / 1e6:9.2f} M frozen"
        if of_part := [groups[id(p)] for p in part.parameters() if p.requires_grad]:
            decay = max(group["weight_decay"] for group in of_part)
            line += f"   learning rate {of_part[0]['lr']:g}, weight decay {decay:g}"
        if trained + frozen:
            lines.append(line)
    return lines


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, part in model.named_children():
        if name == "heads":
            yield from ((f"heads.{task}", head) for task, head in part.named_children())
        else:
            yield name, part


def finish_fit(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, run_dir: str, monitor: str
) -> float | None:
    """The best value of `monitor`; a run that was too short to validate does so now, and one to save too."""
    last = Path(run_dir) / "checkpoints" / LAST
    if trainer.strategy.broadcast(not last.is_file()):
        trainer.save_checkpoint(last)
    for callback in _monitoring(trainer):
        if callback.monitor == monitor and callback.best_model_score is not None:
            return float(callback.best_model_score)
    if monitor not in trainer.callback_metrics:
        trainer.validate(module, data, verbose=False)
    best = last.with_name("best.ckpt")
    if trainer.is_global_zero and _monitoring(trainer) and not best.exists():  # the last is the best of one
        shutil.copyfile(last, partial := last.with_name(".best.ckpt.tmp"))
        partial.replace(best)
    value = trainer.callback_metrics.get(monitor)
    return None if value is None else float(value)


def best_checkpoint(trainer: Trainer, run_dir: str) -> str:
    """The file of the callback that monitors a value, or else the last one."""
    best = [callback.best_model_path for callback in _monitoring(trainer) if callback.best_model_path]
    return best[0] if best else str(Path(run_dir) / "checkpoints" / LAST)


def _monitoring(trainer: Trainer) -> list[ModelCheckpoint]:
    return [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]


def parts(module: LightningModule) -> dict[str, int]:
    """How much is trained, and how much is not."""
    trained, frozen = count_parameters(module)
    return {"trained_parameters": trained, "frozen_parameters": frozen}


def history(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """The logged numbers of the run up to a checkpoint."""
    return checkpoint["callbacks"].get("History", {}).get("records", [])


def examples(checkpoint: dict[str, Any]) -> list[dict[str, Any]]:
    """What was said of the first validation images at each validation, with its step."""
    return checkpoint["callbacks"].get("History", {}).get("examples", [])


def print_scores(module: Any) -> None:
    for name, report in module.reports.items() if module.global_rank == 0 else ():
        for score, value in report["scores"].items():
            print(f"test {name:16} {score:24} {value:10.4g}")


def values_of(names: Sequence[str], logged: Mapping[str, Any]) -> list[float]:
    """Logged numbers, as they were last. Raises ValueError if there is none of a name."""
    for name in names:
        if name not in logged:
            raise ValueError(f"objectives has {name!r}, which was not logged; logged are {', '.join(logged)}")
    return [float(logged[name]) for name in names]


def read_objective(run_dir: str) -> Any:
    """The value that another process's run has written."""
    return json.loads((Path(run_dir) / OBJECTIVE).read_text())["value"]


def write_objective(run_dir: str, value: float | list[float] | None, trainer: Trainer) -> None:
    """For a sweep: what the run has reached, in run_dir/objective.json; rank 0 writes it."""
    if trainer.is_global_zero:
        pruned = any(getattr(callback, "pruned", False) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        path = Path(run_dir) / OBJECTIVE
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps({"value": value, "pruned": pruned}) + "\n")
        temporary.replace(path)


@contextmanager
def ended(trainer: Trainer, run_dir: str) -> Iterator[None]:
    """Finish the loggers on every way out: wandb's run would go on in the next job (wandb #1314)."""
    code, preempted = 1, False
    try:
        yield
        code = 0
    except StoppedBySignal as stop:
        code, preempted = int(str(stop.code)), stop.signum != signal.SIGINT
        if trainer.is_global_zero:
            name, step = signal.Signals(stop.signum).name, trainer.global_step
            print(
                f"\nStopped by {name} at step {step}. The same command with hydra.run.dir={run_dir} goes on.",
                file=sys.stderr,
            )
        raise
    except MisconfigurationException as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
    finally:
        finish(trainer.loggers, code, preempted)
        if torch.distributed.is_initialized() and not code:
            torch.distributed.destroy_process_group()
