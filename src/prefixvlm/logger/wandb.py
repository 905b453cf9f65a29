"""A Weights & Biases logger that never prompts, one wandb run per run folder, and tables."""

import netrc
import os
import secrets
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from PIL.Image import Image

from prefixvlm.atomic import write_text
from prefixvlm.logger.safe import SafeLogger
from prefixvlm.provenance.redaction import redact

ID_FILE = "wandb_id"  # in the folder of a run


def is_logged_in() -> bool:
    """Return whether wandb has a key without prompting for it: in WANDB_API_KEY or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


class ContinuedWandbLogger(SafeLogger, WandbLogger):
    """A wandb run per run folder, which a resumed run continues. Only rank 0 writes.

    offline: None for online if the user is logged in, else offline. WANDB_MODE=offline and disabled come first.
    resume: "never" begins a new wandb run; otherwise a resumed run in save_dir continues its wandb run.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "prefixvlm",
        name: str | None = None,
        offline: bool | None = None,
        resume: str = "auto",
    ) -> None:
        mode = os.environ.get("WANDB_MODE")
        if offline is False and mode not in ("offline", "disabled") and not is_logged_in():
            raise ValueError(
                "logger.wandb.offline is false, but wandb has no key; run `wandb login`, set WANDB_API_KEY, or set it "
                "to null"
            )  # wandb would prompt for the key, and a job without a terminal would wait for ever
        if mode in ("offline", "disabled"):
            offline = mode == "offline"
        elif offline is None:
            offline = not is_logged_in()
        run_id = None
        if rank_zero_only.rank == 0 and mode != "disabled":  # type: ignore[attr-defined]
            run_id = _run_id(Path(save_dir), resume == "never")
            if offline:
                print(f"wandb is offline: the run goes to {save_dir}/wandb; `wandb sync` uploads it")
        # wandb records the command line itself, secrets included; the logged configuration has it in redacted form.
        settings = {"silent": offline, "x_disable_meta": redact(sys.argv) != sys.argv}
        # Where wandb stages tables until they are uploaded: by default in the home, which may not be writable.
        os.environ.setdefault("WANDB_DATA_DIR", str(Path(save_dir, "wandb").absolute()))
        super().__init__(project=project, name=name, save_dir=save_dir, offline=offline, id=run_id, settings=settings)

    def log_table(
        self,
        key: str,
        columns: list[str] | None = None,
        data: list[list[Any]] | None = None,
        dataframe: Any = None,
        step: int | None = None,
    ) -> None:
        """Log a table, with PIL images in it as pictures."""
        import wandb

        # Here, where an error ends no run: wandb writes each picture to a temporary folder, which may be full.
        rows = [[wandb.Image(value) if isinstance(value, Image) else value for value in row] for row in data or []]
        super().log_table(key, columns, rows, dataframe, step)

    def close(self, code: int, preempted: bool) -> None:
        """Finish the wandb run at the end of ours."""
        import wandb

        if wandb.run is not None and preempted:
            wandb.run.mark_preempting()
        # WandbLogger does not finish its run: the next run of this process would continue it (wandb #1314).
        wandb.finish(exit_code=code)


def _run_id(folder: Path, new: bool) -> str:
    """Return the run id stored in the folder, or store a new one."""
    path = folder / ID_FILE
    stored = path.read_text().strip() if path.is_file() and not new else ""
    run_id = stored or secrets.token_hex(4)
    if not stored:
        write_text(path, f"{run_id}\n")
    return run_id


def finish(loggers: Iterable[Logger], code: int, preempted: bool = False) -> None:
    """Finish every logger with the exit code of the run.

    preempted: mark the run as stopped by a scheduler, to be resumed later.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return
    for logger in loggers:
        logger.finalize("success" if code == 0 else "failed")
        if isinstance(logger, ContinuedWandbLogger):
            logger.close(code, preempted)


def log_table(trainer: Trainer, name: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Log a table to each WandbLogger of the trainer, without secrets in its prompts; nothing for other loggers."""
    if rows and trainer.is_global_zero:
        if "prompt" in columns:
            place = columns.index("prompt")
            prompts = redact([row[place] for row in rows])
            rows = [[*row[:place], prompt, *row[place + 1 :]] for row, prompt in zip(rows, prompts, strict=True)]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_table(name, columns, [list(row) for row in rows])
