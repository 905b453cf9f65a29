"""Parses a command line as Hydra does, with hyphens before overrides too: wandb's agents write --KEY=VALUE."""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep

from prefixvlm.options.component_check import nearest

MAX_RANGE = 10_000  # jobs of a sweep


def parse() -> argparse.Namespace:
    """Return the arguments of sys.argv, which gets them without the hyphens of overrides, and with the flags behind.

    Raises ValueError for a flag that Hydra does not have.
    """
    parser = get_args_parser()
    parser.exit_on_error = False
    flags = [flag for action in parser._actions for flag in action.option_strings]
    words = [_without_hyphens(word, flags) for word in sys.argv[1:]]
    try:
        arguments, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error
    for word in rest:
        if word.startswith("-"):
            raise ValueError(
                f"there is no flag {word}{nearest(word, flags)}; values are set without hyphens, KEY=VALUE"
            )
    # argparse takes overrides in one block only.
    arguments.overrides += rest
    for override in arguments.overrides:
        words.remove(override)
    sys.argv[1:] = [*arguments.overrides, *words]
    return arguments


def _without_hyphens(word: str, flags: Sequence[str]) -> str:
    return word[2:] if re.match(r"--[\w./@]+=", word) and word.partition("=")[0] not in flags else word


def jobs_of(overrides: Sequence[str]) -> Iterator[list[str]]:
    """Yield the overrides of a sweep's first job, then of those that differ from it in one value."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = {number: _values(each) for number, each in enumerate(parsed) if each.is_sweep_override()}
    first = {number: words[0] for number, words in values.items() if words}
    yield [first.get(n, text) for n, text in enumerate(overrides) if n not in values or n in first]
    for number, words in values.items():
        for word in words[1:]:
            job = first | {number: word}
            yield [job.get(n, text) for n, text in enumerate(overrides) if n not in values or n in job]


def _values(override: Override) -> list[str]:
    """Return the overrides that a sweep makes of one; of a range the first and the last, between which all others lie.

    Empty for an interval, whose values the sweeper draws. Raises ValueError for a range that is empty or endless.
    """
    if not override.is_discrete_sweep() or override.input_line is None or "glob(" in override.input_line:
        return []
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        start, stop, step = (float(each or 0) for each in (sweep.start, sweep.stop, sweep.step))
        if not step or not 0 < (stop - start) / step <= MAX_RANGE:
            raise ValueError(
                f"{override.input_line:.100} is a range of no values or of more than {MAX_RANGE}; write "
                "range(START,STOP,STEP), with STOP not among the values"
            )
    words = list(override.sweep_string_iterator())
    if isinstance(sweep, RangeSweep):
        words = sorted(words, key=float)[:: max(len(words) - 1, 1)]
    return [f"{override.get_key_element()}={word}" for word in words]
