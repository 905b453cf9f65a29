"""Server-sent events."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Any

from fastapi.responses import StreamingResponse

from prefixvlm.serve.api.errors import logged

DONE = "data: [DONE]\n\n"


def event(content: Any) -> str:
    return f"data: {json.dumps(content)}\n\n"


async def first_of(parts: AsyncGenerator[Any]) -> AsyncGenerator[Any]:
    """Wait for the first part, so that what is wrong with a request has its code, and return the parts."""
    first = await anext(parts)

    async def again() -> AsyncGenerator[Any]:
        async with aclosing(parts):
            yield first
            async for part in parts:
                yield part

    return again()


def response(parts: AsyncGenerator[Any], events: Callable[[Any], Iterable[Any]], end: str = "") -> StreamingResponse:
    """Return the response that sends events of parts. What fails after the beginning is an event with the error."""

    async def texts() -> AsyncIterator[str]:
        async with aclosing(parts):
            try:
                async for part in parts:
                    for content in events(part):
                        yield event(content)
            except Exception as error:
                yield event(logged(error)[1])
        if end:
            yield end

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy must not collect the parts
    return StreamingResponse(texts(), media_type="text/event-stream", headers=headers)
