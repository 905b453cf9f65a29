"""Loggers whose failures end no run."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

METHODS = ("log_metrics", "log_hyperparams", "log_table", "save", "after_save_checkpoint", "finalize", "close")


class SafeLogger:
    """Base class to come before a Lightning logger: its first error is a warning, and it logs nothing from then on."""

    # An unwritable home, a full disk, a service that was killed: hours of training are worth more than their curves.
    # That is any exception, because each library has its own.
    has_failed = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in METHODS:
            if hasattr(cls, name):
                setattr(cls, name, _safe(getattr(cls, name)))
        if hasattr(cls, "experiment"):  # Lightning reads it before a fit
            read = _safe(cls.experiment.fget)
            cls.experiment = property(lambda self: read(self) or _DummyExperiment())


def _safe(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def safe(self: SafeLogger, *args: Any, **kwargs: Any) -> Any:
        if self.has_failed:
            return None
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            # An `experiment` that has failed within the method has given the warning.
            is_first, self.has_failed = not self.has_failed, True
            if is_first and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
                reason = str(error).strip().splitlines()[:1] or [""]
                warnings.warn(
                    f"{type(self).__name__} failed ({type(error).__name__}: {reason[0]}); the run goes on without it",
                    stacklevel=2,
                )
            return None

    return safe
