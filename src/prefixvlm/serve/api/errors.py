"""Errors in OpenAI's form: one sentence each."""

import sys
import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from prefixvlm.data.image import reason_of
from prefixvlm.errors import is_expected

KINDS = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def body(status: int, message: str) -> dict[str, Any]:
    """Return the JSON of an error."""
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    code = {401: "invalid_api_key", 404: "not_found"}.get(status)
    message = message.encode("utf-8", "backslashreplace").decode()  # it may quote what JSON can spell and UTF-8 cannot
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_of(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return the code of an error, and its JSON."""
    if isinstance(error, StarletteHTTPException) and isinstance(error.__cause__, ValueError | RecursionError):
        return 400, body(400, f"the request is not JSON that can be read ({reason_of(error.__cause__)})")
    if isinstance(error, StarletteHTTPException):
        return error.status_code, body(error.status_code, str(error.detail))
    if isinstance(error, RequestValidationError):
        return 400, body(400, _sentence(error))
    if isinstance(error, ValueError):
        return 400, body(400, reason_of(error))
    if is_expected(error):  # no memory, no space
        return 503, body(503, f"the server cannot do this now ({reason_of(error)})")
    return 500, body(500, "the server has failed; its log says why")


def logged(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return what error_of does, and print the traceback of an error that is the server's own."""
    status, content = error_of(error)
    if status == 500:
        traceback.print_exception(error, file=sys.stderr)
    return status, content


def add_handlers(app: FastAPI) -> None:
    """Make every error of an app a sentence."""

    async def answer(request: Request, error: Exception) -> JSONResponse:
        status, content = logged(error)
        return JSONResponse(content, status, getattr(error, "headers", None))

    async def fail(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(error_of(error)[1], 500)  # Starlette raises the error again, and uvicorn prints it

    app.add_exception_handler(Exception, fail)
    for kind in (StarletteHTTPException, RequestValidationError, ValueError, OSError, RuntimeError, MemoryError):
        app.add_exception_handler(kind, answer)


def _sentence(error: RequestValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        return f"the request is not JSON ({first['ctx']['error']} at {place})"
    if first["type"] == "missing" and not place:
        return "the request has no JSON; send it with Content-Type: application/json"
    return f"{place or 'the request'} is not valid: {first['msg']}"
