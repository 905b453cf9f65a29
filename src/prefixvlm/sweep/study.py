"""Optuna's storage and pruner, for a sweep and for each of its jobs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage

PRUNERS = ("none", "median", "hyperband")
SQLITE_TIMEOUT = 60  # seconds that a job waits while another writes; sqlite3's default of 5 is too short for a sweep


def import_optuna() -> Any:
    """Return the module optuna. Raises ValueError with the command that installs it if it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise ValueError("this needs Optuna; run pip install 'optuna>=5'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(place: str) -> "BaseStorage":
    """Open or create the storage of studies.

    place: a database as sqlite:///FILE or another URL of SQLAlchemy, FILE.db for sqlite, FILE.log for a journal.
    """
    storages = import_optuna().storages
    if place.endswith(".log"):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        return storages.JournalStorage(storages.journal.JournalFileBackend(place))
    if "://" not in place and not place.endswith(".db"):
        raise ValueError(
            f"a study cannot be stored in {place!r}; accepted are FILE.db, FILE.log, sqlite:///FILE, other URLs"
        )
    url = place if "://" in place else f"sqlite:///{place}"
    if not url.startswith("sqlite:///"):
        return storages.RDBStorage(url)
    Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": SQLITE_TIMEOUT}})


def make_pruner(name: str) -> "BasePruner":
    """Return a pruner whose steps are validations. median stops runs below the median; hyperband halves repeatedly."""
    pruners = import_optuna().pruners
    if name not in PRUNERS:
        raise ValueError(f"pruner is {name!r}; accepted are {', '.join(PRUNERS)}")
    if name == "median":  # not before 4 runs have ended, nor at the first validation of a run
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    return pruners.HyperbandPruner() if name == "hyperband" else pruners.NopPruner()
