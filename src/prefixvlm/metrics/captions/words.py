"""Captions go in; the way to cut them into words comes out: the official one or, where no spaces are, characters.

The official tokenizer takes a Chinese sentence for one word, so BLEU and CIDEr would compare whole sentences.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.ptb.tokenizer import TOKENIZER, ptb_tokenize

# Written without spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Han (with its extensions).
_LETTERS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_LETTERS}]")
_GAP = re.compile(f"(?<=[{_LETTERS}]) (?=[{_LETTERS}])")
_ALONE = re.compile(f"[{_LETTERS}\u3000-\u303f\uff00-\uff65]+")  # their punctuation too


@dataclass(frozen=True)
class Words:
    """name: in the variant of a score. tokenize: a caption to its words, lower case, joined by single spaces."""

    name: str
    tokenize: Callable[[str], str]

    def of_all(
        self, predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]
    ) -> tuple[dict[Id, str], dict[Id, list[str]]]:
        """Both cut, in the order of the predictions. Raises ValueError where they do not belong together."""
        check_ids(predictions, references)
        return (
            {id: self.tokenize(text) for id, text in predictions.items()},
            {id: [self.tokenize(text) for text in references[id]] for id in predictions},
        )


def characters(text: str) -> str:
    """Each character that stands alone, with its marks; of the rest the PTB words. Punctuation is dropped."""
    spaced = _ALONE.sub(lambda run: "".join(map(_spaced, run[0])) + " ", text)
    return " ".join(word for word in ptb_tokenize(spaced).split() if not _is_punctuation(word))


PTB = Words(TOKENIZER, ptb_tokenize)
CHARACTERS = Words("characters", characters)


def words_of(references: Iterable[Sequence[str]]) -> Words:
    """Characters where more than half of what all references hold is of scripts without spaces, else PTB."""
    texts = [text for each in references for text in each]
    found = sum(len(_UNSPACED.findall(text)) for text in texts if not text.isascii())
    return CHARACTERS if 2 * found > sum(map(len, texts)) else PTB


def unspaced(text: str) -> str:
    """Without the spaces that a tokenizer of words, as of Chinese BERTs, leaves between letters that have none."""
    return text if text.isascii() else _GAP.sub("", text)


def _spaced(letter: str) -> str:
    return letter if unicodedata.category(letter).startswith("M") else f" {letter}"


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(letter).startswith("P") for letter in word)
