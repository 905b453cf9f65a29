"""Chat templates: the parts of a row as turns of a chat."""

from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from prefixvlm.batch import AssistantTurn, Part, TemplateText

# Probe messages; private-use characters, so that no template contains them.
PROBES = ("\ue000", "\ue001", "\ue002", "\ue003")
# Some templates print the date (Llama 3.2's), and prompts would change from day to day; this is Llama's own default.
DATE = "26 Jul 2024"


class Chat:
    """The constant texts of a tokenizer's chat template, inserted between the turns of a row.

    Assistant turns are the model's own, all other parts the user's.
    system: system message; None keeps the template's default.
    first: text before the first user turn. opening: before an assistant turn. next: between the EOS of an assistant
    turn and the next user turn.
    Raises ValueError for a template that does more than insert constant texts, or whose turns do not end with EOS.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> None:
        if not tokenizer.chat_template:
            raise ValueError("lm.chat is true, and the tokenizer has no chat template; set lm.chat=false or another lm")
        self._tokenizer, self._system = tokenizer, system
        # Two rounds show all texts around turns: row parts are tokenized one by one, between images, so the template
        # cannot be applied to a whole row.
        prompt = self._render(PROBES[:1], add_generation_prompt=True)
        pieces = _split(self._render(PROBES))
        if (
            pieces is None
            or prompt.rstrip(" ") != (pieces[0] + PROBES[0] + pieces[1]).rstrip(" ")
            or pieces[1] != pieces[3]
        ):
            raise ValueError("the chat template does more than insert texts between the turns; set lm.chat=false")
        first, opening, between, _, end = pieces
        eos = str(tokenizer.eos_token)
        # Generation stops at EOS: with another end of turn it would go on into the user's turn.
        if not (between.startswith(eos) and end.startswith(eos)):
            raise ValueError(
                f"the chat template ends a turn with {between[:20]!r}, but texts end with {eos!r}; set lm.eos_token"
            )
        self.first, self.opening = TemplateText(first), TemplateText(opening)
        self.next = TemplateText(between.removeprefix(eos))  # the collator adds the EOS of an assistant turn itself

    def __call__(self, parts: Sequence[Part]) -> list[Part]:
        """Insert the template's texts. Ends with the opening of an assistant turn, or with the last assistant turn."""
        turns: list[Part] = [self.first]
        for part in parts:
            turns += [self.opening, part, self.next] if isinstance(part, AssistantTurn) else [part]
        return turns[:-1] if parts and isinstance(parts[-1], AssistantTurn) else [*turns, self.opening]

    def _render(self, texts: Sequence[str], **options: Any) -> str:
        messages = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
        if self._system is not None:
            messages.insert(0, {"role": "system", "content": self._system})
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, date_string=DATE, **options)
        except TemplateError as error:
            raise ValueError(f"the chat template refuses a plain chat ({error}); set lm.system or lm.chat") from error
        return str(text)


def _split(text: str) -> list[str] | None:
    """Split a text at the probes; None if they are not there once each and in order."""
    pieces = []
    for probe in PROBES:
        before, separator, text = text.partition(probe)
        if not separator:
            return None
        pieces.append(before)
    pieces.append(text)
    return None if any(probe in piece for piece in pieces for probe in PROBES) else pieces
