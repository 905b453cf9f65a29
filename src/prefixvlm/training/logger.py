"""A run folder goes in; a Weights & Biases logger that never asks for anything comes out."""

import netrc
import os
from urllib.parse import urlparse

import wandb
from lightning.pytorch.loggers import WandbLogger


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
