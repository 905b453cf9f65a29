"""Errors of entry points: one sentence and exit code 2 instead of a traceback.

Hydra 1.3 and omegaconf 2.3 distinguish most errors only by their messages, so some of their wording is matched here.
tests/test_errors.py checks it against the installed versions.
"""

import functools
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm
from yaml import YAMLError

from prefixvlm.component_check import nearest

P = ParamSpec("P")
ERRORS = (ValueError, OSError, HydraException, OmegaConfBaseException, YAMLError)
USAGE = 2  # exit code for bad input, as in argparse

DEAD_WORKER = "DataLoader worker"  # in torch's message about a worker that was killed
NO_MEMORY = re.compile(r"can't allocate memory|out of memory")  # on the CPU and on a GPU
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


def sentence(error: Exception, conf: Path | None = None) -> str:
    """Return the message of an error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MissingConfigException):
        return _unknown_choice(error)
    if isinstance(error, OverrideParseException):
        return _parse_error(error.override)
    message = str(error)
    if isinstance(error, YAMLError):
        return f"a file of the configuration is not YAML: {' '.join(message.split())}"
    if match := re.match(r"In '([^']+)': .* raised while composing config:\n(.*)", message):
        return _of_file(*match.groups())
    if isinstance(error, RuntimeError) and DEAD_WORKER in message:
        return (
            f"a data worker was killed ({message.split('. ')[0]}), mostly for want of memory; set data.num_workers or "
            "data.batch_size to less, or give the job more memory and /dev/shm"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and NO_MEMORY.search(message)):
        tried = re.search(r"tried to allocate ([\d.]+ \w+)", message, re.IGNORECASE)
        wanted = f" ({tried[1]} were asked for)" if tried else ""
        return f"memory ran out{wanted}; set batch_size, num_beams or prefix_length to less, or lm to a smaller one"
    if match := re.search(r"Could not override '([^']+)'", message):
        return _unknown_key(match[1], conf)
    if match := re.search(r"Missing mandatory value: (\S+)", message):
        return f"{match[1]} has no value; set it as {match[1]}=VALUE"
    if match := re.search(r"Could not (?:override|append to config)\. No match for (\S+)", message):
        return _unknown_key(match[1], conf)
    if match := re.match(r"Error merging override (.*)", message):
        reason = str(error.__cause__ or "").splitlines()
        return f"{match[1]} does not fit" + (f": {reason[0]}" if reason else "")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    keys = [line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")]
    text = lines[0] if lines else type(error).__name__
    return f"{text} (in {keys[0]})" if keys and keys[0] not in text else text


def _of_file(name: str, reason: str) -> str:
    group = name.rpartition("/")[0]
    # Without the line, the keys of an experiment lie below `experiment`, where there are none.
    hint = "; begin it with the line `# @package _global_`" if f"Key '{group}' not in" in reason else ""
    return f"{name}.yaml does not fit the configuration: {reason}{hint}"


def _parse_error(override: str) -> str:
    # Hydra's own message names a character of its grammar, but not what to write instead.
    key, equals, value = override.partition("=")
    if not equals or value[:1] in "[{'\"":
        return f"{override} cannot be read; write KEY=VALUE, with every bracket and quote closed"
    example = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    return f"{override} cannot be read; put quotes around its value, and others around all: '{example}'"


def _unknown_key(key: str, conf: Path | None) -> str:
    accepted = _keys(conf, key) if conf else []
    siblings = [name for name in accepted if name.count(".") == key.count(".")] or accepted
    return f"there is no key {key}" + (nearest(key, siblings) if siblings else "")


def _keys(conf: Path, wrong: str) -> list[str]:
    """Return all keys of the configuration that the command line composes without the wrong one."""
    GlobalHydra.instance().clear()  # initialize_config_dir raises an error if Hydra is initialised
    arguments = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    overrides = [argument for argument in arguments if argument.lstrip("+~").split("=")[0] != wrong]
    with initialize_config_dir(str(conf), version_base="1.3"):
        try:
            cfg = compose(Path(sys.argv[0]).stem, overrides)
        except (HydraException, OmegaConfBaseException):
            cfg = compose(Path(sys.argv[0]).stem)
    names: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for name, value in node.items():
            names.append(f"{prefix}{name}")
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    walk(OmegaConf.to_container(cfg, resolve=False), "")
    return names


def _unknown_choice(error: MissingConfigException) -> str:
    wrong = str(error.missing_cfg_file or "")
    axis, _, choice = wrong.rpartition("/")
    options = [str(option) for option in error.options or []]
    if not options:
        return f"there is no {axis or 'configuration'} {choice!r}; --help lists the choices"
    return f"there is no {axis or 'configuration'} {choice!r}" + nearest(choice, options, f"{axis}=" if axis else "")
