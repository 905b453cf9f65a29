"""A run folder goes in; a Weights & Biases logger that never asks for anything comes out, and what it shows."""

import io
import netrc
import os
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL import Image

from prefixvlm.provenance.redaction import redact
from prefixvlm.task.results.prediction import Prediction

ID = "wandb_id"  # the file in a run's folder


def is_logged_in() -> bool:
    """Whether wandb would find a key without asking: in WANDB_API_KEY or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(
    save_dir: str, project: str = "prefixvlm", name: str | None = None, resume: str = "auto"
) -> WandbLogger:
    """Online for those who are logged in, offline for all others; WANDB_MODE may say offline or disabled.

    A run that goes on in save_dir is the same run of wandb; resume: `never` begins another. Only rank 0 writes.
    """
    mode = os.environ.get("WANDB_MODE")
    offline = mode == "offline" or (mode != "disabled" and not is_logged_in())
    run_id = None
    if rank_zero_only.rank == 0 and mode != "disabled":  # type: ignore[attr-defined]
        run_id = _run_id(Path(save_dir), resume == "never")
        if offline:
            print(f"wandb is offline: the run goes to {save_dir}/wandb; `wandb sync` uploads it")
    # wandb itself records the command line, which is in the configuration too, there without what is secret.
    settings = {"silent": offline, "x_disable_meta": redact(sys.argv) != sys.argv}
    return WandbLogger(project=project, name=name, save_dir=save_dir, offline=offline, id=run_id, settings=settings)


def _run_id(folder: Path, anew: bool) -> str:
    """The id in the folder, made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ID
    found = file.read_text().strip() if file.is_file() and not anew else ""
    if found:
        return found
    made = secrets.token_hex(4)
    temporary = folder / f".{ID}.{os.getpid()}.tmp"
    temporary.write_text(f"{made}\n")
    temporary.replace(file)
    return made


def finish(loggers: Iterable[Logger], code: int, preempted: bool = False) -> None:
    """End every logger, with the exit code of the run; on every way out, or the next job of a sweep would go on in it.

    preempted: somebody wants the machine back, and the run is to go on another time.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    for logger in loggers:
        logger.finalize("success" if code == 0 else "failed")
        if isinstance(logger, WandbLogger):
            import wandb

            if wandb.run is not None and preempted:
                wandb.run.mark_preempting()
            wandb.finish(exit_code=code)


def log_table(trainer: Trainer, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    """A wandb table. Nothing for other loggers."""
    if rows and trainer.is_global_zero:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(name, columns, [list(row) for row in rows])


def log_predictions(trainer: Trainer, predictions: Mapping[str, Sequence[Prediction]], split: str = "val") -> None:
    """A wandb table a task: image, prompt, prediction, references and how right it is. Nothing for other loggers."""
    watched = any(isinstance(logger, WandbLogger) for logger in trainer.loggers)
    if not watched or trainer.sanity_checking or not trainer.is_global_zero:
        return
    import wandb

    images = trainer.datamodule.images([p.key for each in predictions.values() for p in each], split)  # type: ignore[attr-defined]
    columns = ["image", "prompt", "prediction", "references", "correct"]
    for task, each in predictions.items():
        rows = [
            [wandb.Image(Image.open(io.BytesIO(images[p.key]))) if p.key in images else None, p.prompt, p.prediction,
             " | ".join(p.references), p.correct] for p in each
        ]  # fmt: skip
        log_table(trainer, f"{split}/{task}_predictions", columns, rows)
