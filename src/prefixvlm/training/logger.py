"""A run folder goes in; a Weights & Biases logger that never asks for anything comes out, and what it shows."""

import io
import netrc
import os
from collections.abc import Mapping, Sequence
from urllib.parse import urlparse

import wandb
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from prefixvlm.task.prediction import Prediction


def is_logged_in() -> bool:
    """Whether wandb would find a key without asking: in WANDB_API_KEY or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def wandb_logger(save_dir: str, project: str = "prefixvlm", name: str | None = None) -> WandbLogger:
    """Online for those who are logged in, offline for all others; WANDB_MODE may say offline or disabled."""
    mode = os.environ.get("WANDB_MODE")
    offline = mode == "offline" or (mode != "disabled" and not is_logged_in())
    os.makedirs(save_dir, exist_ok=True)
    if offline:
        print(f"wandb is offline: the run goes to {save_dir}/wandb; `wandb sync` uploads it")
    settings = wandb.Settings(silent=offline)
    return WandbLogger(project=project, name=name, save_dir=save_dir, offline=offline, settings=settings)


def log_predictions(trainer: Trainer, predictions: Mapping[str, Sequence[Prediction]], split: str = "val") -> None:
    """A wandb table a task: image, prompt, prediction, references and how right it is. Nothing for other loggers."""
    loggers = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    if not loggers or trainer.sanity_checking or not trainer.is_global_zero:
        return
    images = trainer.datamodule.images([p.key for each in predictions.values() for p in each], split)  # type: ignore[attr-defined]
    columns = ["image", "prompt", "prediction", "references", "correct"]
    for task, each in predictions.items():
        if not each:
            continue
        rows = [
            [wandb.Image(Image.open(io.BytesIO(images[p.key]))) if p.key in images else None, p.prompt, p.prediction,
             " | ".join(p.references), p.correct] for p in each
        ]  # fmt: skip
        for logger in loggers:
            logger.log_table(f"{split}/{task}_predictions", columns, rows)
