"""Limits of the server, each an option of `prefixvlm serve`."""

from dataclasses import dataclass, field
from typing import Any

MAX_HELD_PIXELS = 400_000_000  # decoded images that wait for the model; 1.2 GB as RGB
MAX_CHARACTERS = 20_000  # texts of a request: to tokenize megabytes would keep the model from others for seconds


def check_characters(*texts: str) -> None:
    """Raise ValueError if the texts of a request are too long, or have half a surrogate pair, which JSON can spell."""
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text[:MAX_CHARACTERS]):
        raise ValueError("a text is not valid Unicode")
    if (number := sum(map(len, texts))) > MAX_CHARACTERS:
        raise ValueError(f"the texts have {number} characters; at most {MAX_CHARACTERS} are read")


def limit(default: float, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Limits:
    """Limits of the server. Each is a positive number; see the texts."""

    max_batch: int = limit(16, "requests that are computed together, and streams at a time")
    max_wait_ms: float = limit(10.0, "how long a request waits for others to be computed with it")
    max_queue: int = limit(64, "requests that may wait; more get 429")
    max_body_mb: float = limit(20.0, "size of a request; larger ones get 413")
    max_images: int = limit(8, "images in a request")
    max_tokens: int = limit(256, "tokens that a request may ask for")
    timeout_s: float = limit(60.0, "time from a request to its whole answer; then 504")
    body_timeout_s: float = limit(20.0, "time to send a request, and to read a part of an answer; then 408")
    max_connections: int = limit(256, "open connections; more get 503")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least = 0 if name == "max_wait_ms" else 1 if type(value) is int else 0.001
            if not least <= value <= 1e9:  # also false for NaN
                raise ValueError(f"{name} is {value:g}; set --{name.replace('_', '-')} to {least:g} or more")
