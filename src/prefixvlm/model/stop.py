"""Stop texts: where a generated text ends, when it is whole and while it comes."""

from collections.abc import Iterable, Iterator, Sequence

UNFINISHED = "\ufffd"  # decoded in place of a letter of which only the first bytes have come


def truncate_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop text in it, without white space around it."""
    return min((text.split(each, 1)[0] for each in stop), key=len, default=text).strip()


def pieces(texts: Iterable[str], stop: Sequence[str]) -> Iterator[str]:
    """Yield the parts of a text as they are certain. texts: the text so far, again and again, each longer than before.

    Joined, the parts are the truncated whole text.
    """
    said, text = "", ""
    for text in texts:
        text = text.strip()
        begin = _possible_stop(text, stop)
        ended = any(each in text[: begin + len(each)] for each in stop)  # before any that may still come
        certain = truncate_at_stop(text, stop) if ended else text[:begin].rstrip(UNFINISHED).rstrip()
        yield from _rest(certain, said)
        said = max(said, certain, key=len)
        if ended:
            return
    yield from _rest(truncate_at_stop(text, stop), said)


def _possible_stop(text: str, stop: Sequence[str]) -> int:
    """Return where the text ends or, if that is the beginning of a stop text, where that begins."""
    held = (length for each in stop for length in range(len(each)) if text.endswith(each[:length]))
    return len(text) - max(held, default=0)


def _rest(text: str, said: str) -> Iterator[str]:
    if text.startswith(said) and text != said:
        yield text[len(said) :]
