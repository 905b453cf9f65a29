"""Generated texts by the decoding options of a task."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prefixvlm.batch import Batch
from prefixvlm.model import decoding
from prefixvlm.model.clipcap_beam import clipcap_beam
from prefixvlm.model.prefix_lm import PrefixLM
from prefixvlm.model.stop import pieces, truncate_at_stop
from prefixvlm.options.ranges import check_value

METHODS: dict[str, Callable[..., list[list[int]]]] = {
    "greedy": decoding.greedy,
    "beam": decoding.beam,
    "clipcap_beam": clipcap_beam,
    "nucleus": decoding.nucleus,
}
STREAMED = {"greedy": decoding.stream_greedy, "nucleus": decoding.stream_nucleus}
DEFAULT = {"method": "greedy", "max_new_tokens": 32, "stop": ["\n"]}


def check_options(key: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError for decoding options that do not fit. key: theirs in the configuration, for the message."""
    method = options["method"]
    if method not in METHODS:
        raise ValueError(f"{key}.method is {method!r}; accepted are {', '.join(METHODS)}")
    # A task has one text per row, so num_samples is not an option.
    parameters = inspect.signature(METHODS[method]).parameters
    accepted = {"stop", *parameters} - {"model", "batch", "num_samples"}
    if unknown := options.keys() - accepted - {"method"}:
        raise ValueError(
            f"{key}.{min(unknown)} is not an option of {method} decoding; accepted are {', '.join(sorted(accepted))}"
        )
    for name in options.keys() & parameters.keys():
        check_value(f"{key}.{name}", options[name], parameters[name].annotation)
    stop = options["stop"]
    if not isinstance(stop, list | tuple) or not all(isinstance(each, str) and each for each in stop):
        raise ValueError(f"{key}.stop is {stop!r}; give a list of texts, or [] for none")


def changed_options(key: str, options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return decoding options with changes. Another method keeps only those that all methods take."""
    if changes.get("method", options["method"]) != options["method"]:
        options = {name: value for name, value in options.items() if name in DEFAULT}
    changed = {**DEFAULT, **options, **changes}
    check_options(key, changed)
    return changed


def generate_ids(model: PrefixLM, batch: Batch, options: Mapping[str, Any]) -> list[list[int]]:
    """Return the generated token ids, without EOS, of each of the S rows of the batch."""
    return METHODS[options["method"]](model, batch, **_keywords(options))


def generate(model: PrefixLM, batch: Batch, options: Mapping[str, Any]) -> list[str]:
    """Return the generated text of each of the S rows of the batch."""
    return _texts(model, generate_ids(model, batch, options), options)


def generate_beams(model: PrefixLM, batch: Batch, options: Mapping[str, Any]) -> list[list[str]]:
    """Return the texts of all beams of each row, the likeliest first; the one text of a method without beams."""
    if options["method"] != "beam":
        return [[text] for text in generate(model, batch, options)]
    return [_texts(model, ids, options) for ids in decoding.beams(model, batch, **_keywords(options))]


def _texts(model: PrefixLM, ids: list[list[int]], options: Mapping[str, Any]) -> list[str]:
    texts = model.lm.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [truncate_at_stop(text.strip(), options["stop"]) for text in texts]


def stream(model: PrefixLM, batch: Batch, options: Mapping[str, Any]) -> Iterator[str]:
    """Yield the parts of the text of the only row of a batch as they come. Joined, they are that of `generate`.

    Raises ValueError for a method that knows its text only at its end.
    """
    method = options["method"]
    if method not in STREAMED:
        raise ValueError(f"{method} decoding cannot be streamed; accepted are {', '.join(STREAMED)}")
    decode = model.lm.tokenizer.batch_decode
    ids = STREAMED[method](model, batch, **_keywords(options))
    return pieces((decode([each], skip_special_tokens=True)[0] for each in ids), options["stop"])


def _keywords(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in ("method", "stop")}
