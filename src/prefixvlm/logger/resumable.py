"""CSV and TensorBoard loggers that continue the files of a resumed run.

A resumed run logs the steps after its last checkpoint again; the new values replace the former ones.
"""

import csv
import io
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from prefixvlm.atomic import write_text
from prefixvlm.logger.safe import SafeLogger

SHARED_COLUMNS = ("epoch", "step")  # of every row, so that they do not tell what was logged


class CsvLogger(SafeLogger, Logger):
    """Writes SAVE_DIR/NAME/metrics.csv, a row for each call, at once, so that a kill loses nothing.

    resume: "never" drops the rows of a former run; other values continue them.
    """

    # Lightning's CSVLogger makes a new version_N folder for a resumed run, and buffers its rows.

    def __init__(self, save_dir: str, name: str = "csv", resume: str = "auto") -> None:
        super().__init__()
        self._save_dir, self._name, self._drops_former = save_dir, name, resume == "never"
        self.folder = Path(save_dir) / name
        self.rows: list[dict[str, Any]] | None = None  # None until the file is read
        self.columns: list[str] = []
        self.num_former = 0  # the first rows, which a former run has logged
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
        valid = [old for old in rows[: self.num_former] if not _replaces(row, old)] + rows[self.num_former :]
        self.num_former -= len(rows) - len(valid)
        self.rows = [*valid, row]
        columns = sorted({*self.columns, *row})
        if columns == self.columns and len(valid) == len(rows):
            with self._file.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, columns).writerow(row)
        else:  # a new column or a replaced row
            self.columns = columns
            self._write()

    @property
    def _file(self) -> Path:
        return self.folder / "metrics.csv"

    def _read(self) -> list[dict[str, Any]]:
        """Return the rows of a former run, without a last one that a kill cut short."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = self._file.read_text(encoding="utf-8") if self._file.is_file() and not self._drops_former else ""
        reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
        rows = [{name: value for name, value in row.items() if value} for row in reader]
        self.num_former = len(rows)
        return rows

    def _write(self) -> None:
        assert self.rows is not None
        self.columns = sorted({name for row in self.rows for name in row})
        file = io.StringIO()
        writer = csv.DictWriter(file, self.columns)
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self._file, file.getvalue())


class ContinuedTensorBoardLogger(SafeLogger, TensorBoardLogger):
    """Lightning's TensorBoardLogger with a single folder per run. resume: see CsvLogger."""

    def __init__(self, save_dir: str, name: str = "tensorboard", resume: str = "auto", **kwargs: Any) -> None:
        super().__init__(save_dir, name, version="", default_hp_metric=False, **kwargs)
        self._purge_step: int | None = 0 if resume == "never" else None
        self._has_purged = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # A finished run that is run again only tests again: its curves stay.
        only_tests = all(name in SHARED_COLUMNS or name.startswith("test/") for name in metrics)
        if not self._has_purged and not only_tests:
            self._purge(step if self._purge_step is None else self._purge_step)
            self._has_purged = True
        super().log_metrics(metrics, step)

    def _purge(self, step: int | None) -> None:
        """Make TensorBoard ignore what former sessions logged from this step on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        session_start = Event(session_log=SessionLog(status=SessionLog.START))
        self.experiment._get_file_writer().add_event(session_start, step or 0)


def _replaces(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Return whether a row replaces one of a former run: of a later step, or of the same step with a metric of it."""
    step = int(old.get("step") or 0)
    return step > new["step"] or (step == new["step"] and not (new.keys() & old.keys()) <= {*SHARED_COLUMNS})
