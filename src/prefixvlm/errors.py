"""Errors of entry points: one sentence and exit code 2 instead of a traceback."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from yaml import YAMLError

from prefixvlm.sentences import DEAD_WORKER, NO_MEMORY, sentence

P = ParamSpec("P")
ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException, YAMLError)
USAGE = 2  # exit code for bad input, as in argparse
_wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"


def one_sentence(function: Callable[P, Any], conf: Path | None = None) -> Callable[P, None]:
    """Wrap an entry point so that an error prints one sentence and exits with code 2.

    conf: folder of its configurations, from which the nearest key is suggested for an unknown one.
    HYDRA_FULL_ERROR=1 shows the traceback instead.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        os.environ["HYDRA_FULL_ERROR"] = "1"  # otherwise Hydra prints the error itself and exits with code 1
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            print("\nInterrupted. Run the same command again.", file=sys.stderr)
            sys.exit(130)
        except Exception as error:
            if _wants_traceback or not is_expected(error):
                raise
            _print(error, conf)
            sys.exit(USAGE)
        finally:
            if not _wants_traceback:
                os.environ.pop("HYDRA_FULL_ERROR", None)

    return wrapped


def job(function: Callable[P, Any]) -> Callable[P, Any]:
    """Wrap the function under hydra.main. An error ends a single run with one sentence.

    In a sweep it is raised, so that Hydra reports it as the result of the job and continues with the others.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> Any:
        # All paths of a command are of the folder where it was given, whatever hydra.job.chdir is.
        os.chdir(HydraConfig.get().runtime.cwd)
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN or _wants_traceback or not is_expected(error):
                raise
            _print(error)
            sys.exit(USAGE)

    return wrapped


def is_expected(error: Exception) -> bool:
    """Return whether an error is one of the user's input or machine, and not of our own."""
    of_torch = isinstance(error, RuntimeError) and (DEAD_WORKER in str(error) or NO_MEMORY.search(str(error)))
    return isinstance(error, (*ERRORS, MemoryError)) or bool(of_torch)


def environment() -> dict[str, str]:
    """Return the environment for a child process, without the variable that one_sentence has set."""
    return {name: value for name, value in os.environ.items() if _wants_traceback or name != "HYDRA_FULL_ERROR"}


def quoted(text: str) -> str:
    """Quote a value for an override of Hydra."""
    return QuotedString(text, Quote.single).with_quotes()


def _print(error: Exception, conf: Path | None = None) -> None:
    """Print the sentence and the notes of an error to stderr."""
    # An open progress bar would share its line with the sentence.
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()
    print(f"error: {sentence(error, conf)}", *getattr(error, "__notes__", ()), sep="\n", file=sys.stderr)
