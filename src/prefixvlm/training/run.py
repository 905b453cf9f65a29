"""What a run does around Lightning's fit: where it resumes, what it announces, how it ends its loggers."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException, SIGTERMException

from prefixvlm.model.freezing import count_parameters

RESUME = ("auto", "must", "never")


def quiet_known_warnings() -> None:
    """Silence, by name, what warns in every run and asks nothing of its user."""
    for message in (
        r".*isinstance\(treespec, LeafSpec\)",  # Lightning 2.6 with torch 2.15
        r"Found \d+ module\(s\) in eval mode",  # the frozen parts: that is the point
        r"The '\w+_dataloader' does not have many workers",  # data.num_workers is the user's choice
    ):
        warnings.filterwarnings("ignore", message)


def checkpoint_to_resume(run_dir: str, resume: str) -> str | None:
    """The last checkpoint in run_dir, if the run is to go on from there."""
    if resume not in RESUME:
        raise ValueError(f"resume is {resume!r}; accepted are {', '.join(RESUME)}")
    last = Path(run_dir) / "checkpoints" / "last.ckpt"
    if resume == "must" and not last.is_file():
        raise ValueError(f"there is no {last} to resume from; set hydra.run.dir to the run's folder or resume=auto")
    return str(last) if resume != "never" and last.is_file() else None


def announce(module: LightningModule, config: dict[str, Any], trainer: Trainer) -> None:
    """Say what trains, and give the configuration to the loggers as nested values."""
    for name, part in getattr(module, "model", module).named_children():
        trained, frozen = count_parameters(part)
        if trained + frozen:
            print(f"{name:16} {trained / 1e6:9.2f} M trained {frozen / 1e6:9.2f} M frozen")
    for logger in trainer.loggers:
        logger.log_hyperparams(config)


def finish_fit(
    trainer: Trainer, module: LightningModule, data: LightningDataModule, run_dir: str, monitor: str
) -> float | None:
    """Save the last state; return the best value of `monitor`, for which a run too short to validate does so now."""
    trainer.save_checkpoint(Path(run_dir) / "checkpoints" / "last.ckpt")
    for callback in _monitoring(trainer):
        if callback.monitor == monitor and callback.best_model_score is not None:
            return float(callback.best_model_score)
    if monitor not in trainer.callback_metrics:
        trainer.validate(module, data, verbose=False)
    value = trainer.callback_metrics.get(monitor)
    return None if value is None else float(value)


def best_checkpoint(trainer: Trainer, run_dir: str) -> str:
    """The file of the callback that monitors a value, or else the last one."""
    best = [callback.best_model_path for callback in _monitoring(trainer) if callback.best_model_path]
    return best[0] if best else str(Path(run_dir) / "checkpoints" / "last.ckpt")


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
    for name, report in module.reports.items():
        for score, value in report["scores"].items():
            print(f"test {name:12} {score:16} {value:8.2f}")


@contextmanager
def finished_loggers(trainer: Trainer) -> Iterator[None]:
    """Finish wandb's run on every way out, or the next job of a sweep would go on in it (wandb #1314)."""
    try:
        yield
    except SIGTERMException:
        sys.exit(143)  # Lightning would exit with 0, as if the run were complete
    except SystemExit:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
        print("\nInterrupted. The same command with this run's hydra.run.dir goes on.", file=sys.stderr)
        sys.exit(130)
    except MisconfigurationException as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
    finally:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                wandb.finish()
