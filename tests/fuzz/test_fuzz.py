"""Damaged and hostile files of every kind that may be a stranger's: one sentence, or a counted bad part.

FUZZ_SECONDS is for all targets together. Cases are the same in every run, as many as there is time for. `make fuzz`.
"""

import contextlib
import io
import linecache
import logging
import os
import resource
import signal
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from prefixvlm.errors import is_expected
from prefixvlm.sentences import sentence
from tests.fuzz import data_targets, program_targets
from tests.fuzz.corpus import CORPUS
from tests.fuzz.mutate import mutated

SECONDS = float(os.environ.get("FUZZ_SECONDS") or 15)
TARGETS = data_targets.TARGETS | program_targets.TARGETS
MIN_CASES = 10
CASE_SECONDS = 10  # of the processor; a case takes some milliseconds
MAX_LETTERS = 2000
MAX_FAULTS = 10
MAX_GROWTH = 500_000  # kB
OTHERS = (OSError, HydraException, OmegaConfBaseException, YAMLError)  # which prefixvlm.errors makes a sentence of
FOUND = Path("outputs/fuzz")
pytestmark = [pytest.mark.timeout(SECONDS + 120), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def rows(request: pytest.FixtureRequest) -> Iterator[list[tuple[object, ...]]]:
    """The lines of the table, which is printed at the end if FUZZ_SECONDS is set."""
    lines: list[tuple[object, ...]] = [("target", "cases", "refused", "counted", "accepted", "faults")]
    yield lines
    if "FUZZ_SECONDS" in os.environ:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            print("", *(f"{line[0]:<12}" + "".join(f"{each:>10}" for each in line[1:]) for line in lines), sep="\n")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)  # a warning about each damaged history


class HangError(BaseException):
    """No `except Exception` of a reader catches it."""


def _hang(*_: Any) -> None:
    raise HangError(f"it takes more than {CASE_SECONDS} s")


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    former = signal.signal(signal.SIGPROF, _hang)
    signal.setitimer(signal.ITIMER_PROF, CASE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, former)


class Bench:
    """A target with its whole files in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.target, self.folder, self.writes = TARGETS[name], folder, 0
        self.whole = self.target.make(folder)
        for file, data in self.whole.items():
            self.write(file, data)

    def write(self, file: str, data: bytes) -> None:
        path = self.folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self.writes += 1
        os.utime(path, (self.writes, self.writes))  # readers keep a manifest until its time is another

    def read(self, file: str, data: bytes) -> tuple[str, str]:
        """Return the outcome with this content of a file, and the sentence or what is wrong."""
        self.write(file, data)
        try:
            with time_limit(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                counted = self.target.read(self.folder, file)
        except (Exception, HangError) as error:
            fault = problem_of(error)
            return ("fault", fault) if fault else ("refused", str(error))
        finally:
            self.write(file, self.whole[file])
        return ("counted" if counted else "accepted"), ""


def problem_of(error: BaseException) -> str:
    """Return what is wrong with an error; "" if it is a sentence that we chose to raise."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{type(error).__name__} {str(error)[:200]!r}, raised at {where.filename}:{where.lineno}"
    if not isinstance(error, Exception) or not is_expected(error):
        return place
    others = isinstance(error, OTHERS)
    text = sentence(error) if others else str(error)
    if not text.strip() or "\n" in text or len(text) > MAX_LETTERS:
        return f"{place}, is no sentence"
    # int("x"), `a, b = [1]` and others raise ValueError too, which names neither file nor key.
    raised = linecache.getline(where.filename, where.lineno).strip()
    if not others and not ("/prefixvlm/" in where.filename and raised.startswith("raise ")):
        return f"{place}, is not ours"
    return ""


def test_the_whole_files_are_accepted(tmp_path: Path) -> None:
    for name in TARGETS:
        (tmp_path / name).mkdir()
        bench = Bench(name, tmp_path / name)
        with contextlib.chdir(bench.folder):
            for file, data in bench.whole.items():
                outcome, reason = bench.read(file, data)
                assert outcome in ("accepted", "counted"), f"{name}: {reason}"


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: Any) -> None:
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    bench = Bench(name, tmp_path)
    before, end = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic() + SECONDS / len(TARGETS)
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for file, data in ((file, data) for target, file, data in CORPUS if target == name):
        outcome, reason = bench.read(file, data)
        assert outcome != "fault", f"{file} with {data[:200]!r}: {reason}"
    while (outcomes.total() < MIN_CASES or time.monotonic() < end) and len(faults) < MAX_FAULTS:
        rng = Random(f"{name} {outcomes.total()}")
        file = rng.choice(sorted(bench.whole))
        data = mutated(file, bench.whole[file], rng)
        outcome, reason = bench.read(file, data)
        if outcome == "fault":
            found = root / FOUND / f"{name}-{outcomes.total()}"
            found.parent.mkdir(parents=True, exist_ok=True)
            found.write_bytes(data)
            faults.append(f"{file}, kept as {found}: {reason}")
        outcomes[outcome] += 1
    rows.append((name, outcomes.total(), *(outcomes[each] for each in ("refused", "counted", "accepted", "fault"))))
    assert not faults, "\n".join(faults)
    assert outcomes["refused"] + outcomes["counted"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_GROWTH
