"""A tokenizer's chat template and the parts of a row go in; the parts as the turns of a chat come out."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prefixvlm.batch import AssistantTurn, Part, TemplateText

WORDS = ("\ue000", "\ue001", "\ue002", "\ue003")  # that no template has
DAY = "26 Jul 2024"  # Llama's default: a template that says the date would say another one each day


class Chat:
    """What is given is the user's, what is said the assistant's; the template's own texts stand between them.

    system: the system's message; None leaves what the template says without one. first: what stands before the user's
    first words. opening: before what the assistant says. next: after its EOS, before the user's words.
    Raises ValueError for a template that is not of this form, or whose turns do not end with EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        if not tokenizer.chat_template:
            raise ValueError("lm.chat is true, and the tokenizer has no chat template; set lm.chat=false or another lm")
        self._tokenizer, self._system = tokenizer, system
        asked = self._rendered(WORDS[:1], add_generation_prompt=True)
        pieces = _split(self._rendered(WORDS))
        if (
            pieces is None
            or asked.rstrip(" ") != (pieces[0] + WORDS[0] + pieces[1]).rstrip(" ")
            or pieces[1] != pieces[3]
        ):
            raise ValueError("the chat template does more than put texts between the turns; set lm.chat=false")
        first, opening, between, _, end = pieces
        eos = str(tokenizer.eos_token)
        if not (between.startswith(eos) and end.startswith(eos)):
            raise ValueError(
                f"the chat template ends a turn with {between[:20]!r}, but texts end with {eos!r}; set lm.eos_token"
            )
        self.first, self.opening, self.next = (
            TemplateText(first),
            TemplateText(opening),
            TemplateText(between.removeprefix(eos)),
        )

    def __call__(self, parts: Sequence[Part]) -> list[Part]:
        """Up to where the assistant is to speak, or to where it has spoken last."""
        turns: list[Part] = [self.first]
        for part in parts:
            turns += [self.opening, part, self.next] if isinstance(part, AssistantTurn) else [part]
        return turns[:-1] if parts and isinstance(parts[-1], AssistantTurn) else [*turns, self.opening]

    def _rendered(self, words: Sequence[str], **options: Any) -> str:
        messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(words)]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, date_string=DAY, **options)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses a plain chat ({error}); set lm.system or lm.chat") from error
        return str(text)


def _split(text: str) -> list[str] | None:
    """Before, between and after the words, if each is there once and in order."""
    pieces = []
    for word in WORDS:
        before, found, text = text.partition(word)
        if not found:
            return None
        pieces.append(before)
    pieces.append(text)
    return None if any(word in piece for piece in pieces for word in WORDS) else pieces
