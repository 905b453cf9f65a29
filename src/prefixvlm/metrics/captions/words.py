"""Tokenizers of captions: the official PTB one, or single characters for scripts that are written without spaces.

The official tokenizer makes one word of a Chinese sentence, so that BLEU and CIDEr would compare whole sentences.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from prefixvlm.metrics.pairs import Id, check_ids
from prefixvlm.metrics.ptb.tokenizer import TOKENIZER, ptb_tokenize

# Scripts written without spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Han (with its extensions). Korean
# is not one of them.
_LETTERS = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(f"[{_LETTERS}]")
_GAP = re.compile(f"(?<=[{_LETTERS}]) (?=[{_LETTERS}])")
_RUN = re.compile(f"[{_LETTERS}\u3000-\u303f\uff00-\uff65]+")  # with the punctuation of these scripts


@dataclass(frozen=True)
class Words:
    """A tokenizer. name: in the variant of a score. tokenize: a caption to lower-case words, joined by spaces."""

    name: str
    tokenize: Callable[[str], str]

    def of_all(
        self, predictions: Mapping[Id, str], references: Mapping[Id, Sequence[str]]
    ) -> tuple[dict[Id, str], dict[Id, list[str]]]:
        """Tokenize both, in the order of the predictions. Raises ValueError if their ids differ."""
        check_ids(predictions, references)
        return (
            {id: self.tokenize(text) for id, text in predictions.items()},
            {id: [self.tokenize(text) for text in references[id]] for id in predictions},
        )


def characters(text: str) -> str:
    """Split a text into the characters of scripts without spaces and the PTB words of the rest; drop punctuation."""
    spaced = _RUN.sub(lambda run: "".join(map(_spaced, run[0])) + " ", text)
    return " ".join(word for word in ptb_tokenize(spaced).split() if not _is_punctuation(word))


PTB = Words(TOKENIZER, ptb_tokenize)
CHARACTERS = Words("characters", characters)


def words_of(references: Iterable[Sequence[str]]) -> Words:
    """Return CHARACTERS if more than half of the references' characters are of scripts without spaces, else PTB."""
    # By the references, not the predictions: a model must not choose its tokenizer by what it writes.
    texts = [text for each in references for text in each]
    num_unspaced = sum(len(_UNSPACED.findall(text)) for text in texts if not text.isascii())
    return CHARACTERS if 2 * num_unspaced > sum(map(len, texts)) else PTB


def unspaced(text: str) -> str:
    """Remove spaces between letters of scripts without spaces; tokenizers such as Chinese BERT's decode with them."""
    return text if text.isascii() else _GAP.sub("", text)


def _spaced(letter: str) -> str:
    # A combining mark, such as a Thai vowel or tone, stays with its letter.
    return letter if unicodedata.category(letter).startswith("M") else f" {letter}"


def _is_punctuation(word: str) -> bool:
    return all(unicodedata.category(letter).startswith("P") for letter in word)
