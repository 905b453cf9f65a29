"""The folder of a run goes in; loggers whose files a resumed run goes on with come out.

A run that is resumed logs the steps since its last checkpoint again: what it logs takes the place of what stood there.
"""

import csv
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

BESIDE = ("epoch", "step")  # what stands in every row


class CsvLogger(Logger):
    """SAVE_DIR/NAME/metrics.csv, a row for all that is logged at once; written as it comes, so a kill loses nothing.

    resume: `never` drops the rows of a former run, any other word goes on with them.
    """

    def __init__(self, save_dir: str, name: str = "csv", resume: str = "auto") -> None:
        super().__init__()
        self._save_dir, self._name, self._anew = save_dir, name, resume == "never"
        self.folder = Path(save_dir) / name
        self.rows: list[dict[str, Any]] | None = None  # not read yet
        self.columns: list[str] = []
        self.former = 0  # how many of the rows a former run has logged
        self.hparams: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def log_dir(self) -> str:
        return str(self.folder)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.hparams.update(vars(params) if isinstance(params, Namespace) else params)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_hparams_to_yaml(self.folder / "hparams.yaml", self.hparams)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        rows = self._read() if self.rows is None else self.rows
        row = {**metrics, "step": len(rows) if step is None else step}
        kept = [old for old in rows[: self.former] if not _replaces(row, old)] + rows[self.former :]
        self.former -= len(rows) - len(kept)
        self.rows = [*kept, row]
        columns = sorted({*self.columns, *row})
        if columns == self.columns and len(kept) == len(rows):
            with self._file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerow(row)
        else:
            self.columns = columns
            self._write()

    @property
    def _file(self) -> Path:
        return self.folder / "metrics.csv"

    def _read(self) -> list[dict[str, Any]]:
        """The rows of a former run, without one that a kill cut short."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() and not self._anew else ""
        found = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        rows = [{name: value for name, value in row.items() if value} for row in found]
        self.former = len(rows)
        return rows

    def _write(self) -> None:
        assert self.rows is not None
        self.columns = sorted({name for row in self.rows for name in row})
        temporary = self._file.with_name(".metrics.csv.tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self._file)


class ContinuedTensorBoardLogger(TensorBoardLogger):
    """Lightning's, in one folder a run. resume: as of CsvLogger."""

    def __init__(self, save_dir: str, name: str = "tensorboard", resume: str = "auto", **kwargs: Any) -> None:
        super().__init__(save_dir, name, version="", default_hp_metric=False, **kwargs)
        self._from: int | None = 0 if resume == "never" else None
        self._begun = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        tests = all(name in BESIDE or name.startswith("test/") for name in metrics)  # also after a run that was done
        if not self._begun and not tests:
            self._purge(step if self._from is None else self._from)
            self._begun = True
        super().log_metrics(metrics, step)

    def _purge(self, step: int | None) -> None:
        """TensorBoard leaves out what former sessions logged from this step on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        started = Event(session_log=SessionLog(status=SessionLog.START))
        self.experiment._get_file_writer().add_event(started, step or 0)


def _replaces(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """What is logged now tells that a later row is of a course that was given up, and takes the place of its like."""
    step = int(old.get("step") or 0)
    return step > new["step"] or (step == new["step"] and not (new.keys() & old.keys()) <= {*BESIDE})
