"""Token ids of the texts in a row, each tokenized as the continuation of the text before it."""

from typing import Any

from prefixvlm.batch import IGNORE_INDEX, TemplateText


class TokenizedRow:
    """Ids of a row with a label and a tag for each, IGNORE_INDEX where there is none."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.tags: list[int] = []

    def add(self, ids: list[int], supervised: bool = False) -> None:
        self.ids += ids
        self.labels += ids if supervised else [IGNORE_INDEX] * len(ids)
        self.tags += [IGNORE_INDEX] * len(ids)


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Return the ids of a text, without special tokens."""
    # A web caption may spell "<|endoftext|>"; split_special_tokens reads it as text and not as the end of the target.
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids


def continuation_ids(tokenizer: Any, text: str, target: str) -> list[int]:
    """Return the ids of `target` as the continuation of `text`."""
    # Both are tokenized together, because SentencePiece puts a space before a target that it gets alone.
    before, both = token_ids(tokenizer, text), token_ids(tokenizer, text + target)
    return both[len(before) :] if both[: len(before)] == before else token_ids(tokenizer, target)


def text_ids(tokenizer: Any, previous: str, text: str) -> list[int]:
    """Return the ids of `text` as the continuation of `previous`.

    After TemplateText the text begins with the space that ends the template, or with none.
    """
    if not isinstance(previous, TemplateText):
        return continuation_ids(tokenizer, previous, text)
    # In byte-level BPE a space belongs to the token of the word after it, so it is not tokenized with the template.
    before = previous.rstrip(" ")
    return continuation_ids(tokenizer, before, previous[len(before) :] + text.lstrip())


def template_ids(tokenizer: Any, previous: str, template: str) -> list[int]:
    """Return the ids of TemplateText after `previous`, without the spaces at its end: text_ids adds those."""
    previous, template = previous if previous.strip() else "", template.rstrip(" ")
    before = tokenizer(previous, add_special_tokens=False).input_ids
    both = tokenizer(previous + template, add_special_tokens=False).input_ids
    if both[: len(before)] == before:
        return both[len(before) :]
    return tokenizer(template, add_special_tokens=False).input_ids
