"""OpenAI's form of answers: a chat completion, and the chunks of a stream."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from prefixvlm.serve.work import Said, Token


class Completion:
    """The answer to one request."""

    def __init__(self, model: str) -> None:
        self.common = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._begun = False

    def whole(self, choices: Sequence[Said]) -> dict[str, Any]:
        """Return the JSON of texts."""
        found = [
            {
                "index": index,
                "message": {"role": "assistant", "content": said.text, "refusal": None},
                "logprobs": {"content": [_token(each) for each in said.tokens], "refusal": None}
                if said.tokens
                else None,
                "finish_reason": _reason(said),
            }
            for index, said in enumerate(choices)
        ]
        return {**self.common, "object": "chat.completion", "choices": found, "usage": _usage(choices)}

    def chunks(self, part: str | Said, usage: bool) -> Iterator[dict[str, Any]]:
        """Yield the chunks of a part of a stream. usage: also the numbers of tokens, at the end."""
        if not self._begun:
            self._begun = True
            yield self._chunk({"role": "assistant", "content": ""})
        if isinstance(part, str):
            yield self._chunk({"content": part})
            return
        yield self._chunk({}, _reason(part))
        if usage:
            yield {**self.common, "object": "chat.completion.chunk", "choices": [], "usage": _usage([part])}

    def _chunk(self, delta: dict[str, str], reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self.common, "object": "chat.completion.chunk", "choices": [choice]}


def _reason(said: Said) -> str:
    return "length" if said.cut else "stop"


def _usage(choices: Sequence[Said]) -> dict[str, int]:
    prompt, completion = choices[0].num_prompt_tokens, sum(each.num_tokens for each in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _token(token: Token) -> dict[str, Any]:
    likeliest = [_log_prob(text, value) for text, value in token.likeliest]
    return {**_log_prob(token.text, token.log_prob), "top_logprobs": likeliest}


def _log_prob(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode())}
