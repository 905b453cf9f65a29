"""ASGI middleware: API key, Host header, size and time of bodies, security headers, and counts."""

import asyncio
import hmac
import time
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prefixvlm.serve.api.errors import body
from prefixvlm.serve.limits import Limits

OPEN = ("/health", "/")  # without a key, as is all below PAGE
PAGE = "/page/"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
}


class Guard:
    """Refuses what must not reach the endpoints, and limits what they read.

    key: the API key, None for none. local: refuse names of other hosts, which a page elsewhere may point to this
    machine (DNS rebinding). on_answer is called with endpoint, code and seconds.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, key: str | None, local: bool, on_answer: Callable[[str, int, float], None]
    ) -> None:
        self.app, self.limits, self.key, self.local, self.on_answer = app, limits, key, local, on_answer
        self.max_bytes = int(limits.max_body_mb * 1e6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, code = time.monotonic(), 499  # of a client that has gone before it got an answer

        async def sent(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                message["headers"] = [*message["headers"], *HEADERS.items()]
            await send(message)

        try:
            refusal = self._refusal({name: value.decode("latin-1") for name, value in scope["headers"]}, scope["path"])
            await (refusal or self.app)(scope, receive if refusal else self._limited(receive), sent)
        except Exception:
            code = 500
            raise
        finally:
            route: Any = scope.get("route")
            self.on_answer(route.path if route else "other", code, time.monotonic() - start)

    def _refusal(self, headers: dict[bytes, str], path: str) -> JSONResponse | None:
        """Return the answer to a request that is refused by its headers."""
        host = headers.get(b"host", "")
        if self.local and (host.rsplit(":", 1)[0] if host[-1:] != "]" else host) not in LOOPBACK:
            return _answer(400, "the Host header is of another machine; use http://127.0.0.1 or http://localhost")
        open_to_all = path in OPEN or path.startswith(PAGE)
        given = headers.get(b"authorization", "").removeprefix("Bearer ").encode("latin-1")
        if self.key is not None and not open_to_all and not hmac.compare_digest(given, self.key.encode()):
            return _answer(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY")
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.max_bytes:
            return _answer(413, self._too_large())
        return None

    def _limited(self, receive: Receive) -> Receive:
        """Return a function that receives the body within its limits of size and time."""
        size, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self.limits.body_timeout_s

        async def received() -> Message:
            nonlocal size, whole
            if whole:  # what comes now is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                seconds = self.limits.body_timeout_s
                raise HTTPException(408, f"the request did not come within {seconds:g} s", CLOSE) from None
            size += len(message.get("body", b""))
            if size > self.max_bytes:
                raise HTTPException(413, self._too_large(), CLOSE)
            whole = not message.get("more_body", False)
            return message

        return received

    def _too_large(self) -> str:
        return f"the request has more than {self.limits.max_body_mb:g} MB; send a smaller image"


CLOSE = {"Connection": "close"}


def _answer(status: int, message: str) -> JSONResponse:
    return JSONResponse(body(status, message), status)
