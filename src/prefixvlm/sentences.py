"""The message of an error as one sentence.

Hydra 1.3 and omegaconf 2.3 distinguish most errors only by their messages, so some of their wording is matched here.
tests/test_errors.py checks it against the installed versions.
"""

import difflib
import re
import sys
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from prefixvlm.options.component_check import nearest

DEAD_WORKER = "DataLoader worker"  # in torch's message about a worker that was killed
MAX_SHOWN = 500  # letters of an override
NO_MEMORY = re.compile(r"can't allocate memory|out of memory")  # on the CPU and on a GPU


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
    if match := re.match(r"Multiple values for ([\w/@.]+)\.", message):
        return f"{match[1]} has a choice already; write {match[1]}=NAME, without a +, to make another"
    if match := re.match(r"Could not delete from config\. '(.+)' does not exist", message):
        return _unknown_key(match[1], conf)
    if match := re.match(r"Interpolation key '(.+)' not found", message):
        return f"{_full_key(message) or 'the configuration'} refers to ${{{match[1]}}}, and there is no key {match[1]}"
    if match := re.match(r"Error merging override (.*)", message):
        reason = str(error.__cause__ or "").splitlines()
        return f"{match[1]} does not fit" + (f": {reason[0]}" if reason else "")
    text = next((line.strip() for line in message.splitlines() if line.strip()), type(error).__name__)
    key = _full_key(message)
    return f"{text} (in {key})" if key and key not in text else text


def _full_key(message: str) -> str:
    """Return the key that a message of omegaconf names on a line of its own, "" if there is none."""
    match = re.search(r"^ *full_key: (.+)$", message, re.MULTILINE)
    return match[1].strip() if match else ""


def _of_file(name: str, reason: str) -> str:
    group = name.rpartition("/")[0]
    # Without the line, the keys of an experiment lie below `experiment`, where there are none.
    hint = "; begin it with the line `# @package _global_`" if f"Key '{group}' not in" in reason else ""
    return f"{name}.yaml does not fit the configuration: {reason}{hint}"


def _parse_error(override: str) -> str:
    # Hydra's own message names a character of its grammar, but not what to write instead.
    override = override if len(override) <= MAX_SHOWN else f"{override[:MAX_SHOWN]}..."
    key, equals, value = override.partition("=")
    if not equals or value[:1] in "[{'\"":
        return f"{override} cannot be read; write KEY=VALUE, with every bracket and quote closed"
    example = f"{key}={QuotedString(value, Quote.double).with_quotes()}"
    return f"{override} cannot be read; put quotes around its value, and others around all: '{example}'"


def _unknown_key(key: str, conf: Path | None) -> str:
    accepted = _keys(conf, key) if conf else []
    same_depth = [name for name in accepted if name.count(".") == key.count(".")]
    if close := difflib.get_close_matches(key, same_depth, n=1, cutoff=0.6):
        return f"there is no key {key}; did you mean {close[0]}?"
    parent = key
    while parent:  # else the keys that stand beside it
        parent = parent.rpartition(".")[0]
        if siblings := [name for name in accepted if name.rpartition(".")[0] == parent]:
            return f"there is no key {key}; accepted are {', '.join(sorted(siblings))}"
    return f"there is no key {key}"


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
