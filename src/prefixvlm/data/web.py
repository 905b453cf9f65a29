"""Opens files over HTTP. Redirects stay on HTTP and carry nothing along; checksums that a server states are read."""

import base64
import binascii
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from email.message import Message
from typing import Any, NamedTuple

WEB = ("http", "https")
RETRIED = (408, 425, 429)  # HTTP statuses below 500 that a later request may not get again
HEADERS = {"User-Agent": "prefixvlm"}
# Headers with the hash of a whole file: of RFC 9530 and its predecessors, of S3 and of Google's storage. An ETag is not
# among them, because it is the MD5 of a file on some servers only.
_DIGESTS = (
    (r"repr-digest|content-digest|digest", r"\bsha-256=:?([\w+/=]{43,44})"),
    (r"x-amz-checksum-sha256", r"([\w+/=]{43,44})$"),
    (r"content-md5", r"([\w+/=]{24})$"),
    (r"x-goog-hash", r"\bmd5=([\w+/=]{24})"),
)


class MissingError(ValueError):
    """The server answered and does not provide the file."""


class TransientError(Exception):
    """Another attempt may succeed."""


class Opened(NamedTuple):
    """An open remote file. length, digest: what the server says of it, None if it does not. digest: SHA-256 or MD5."""

    file: Any
    length: int | None
    digest: bytes | None = None


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        # Nothing of the former request, whose headers may authorize it for its host or for a proxy.
        return urllib.request.Request(newurl, headers=HEADERS)

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        target = headers.get("Location") or headers.get("URI") or ""
        scheme = urllib.parse.urlsplit(target).scheme.lower()
        if scheme and scheme not in WEB:
            fp.close()
            name = without_query(req.full_url)
            raise MissingError(f"{name} redirects to a {scheme}: URL; only redirects to http and https are followed")
        return super().http_error_302(req, fp, code, msg, headers)

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def without_query(url: str) -> str:
    """Return the URL without its query, which may hold a signature."""
    return url.partition("?")[0]


def open_web(url: str, timeout: float) -> Opened:
    """Open a file over HTTP. Raises MissingError or TransientError."""
    try:
        response = _opener().open(urllib.request.Request(url, headers=HEADERS), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code >= 500 or error.code in RETRIED:
            raise TransientError(f"{error.code} {error.reason}") from error
        raise MissingError(f"{without_query(url)}: {error.code} {error.reason}; correct data.shards") from error
    except (OSError, http.client.HTTPException) as error:
        raise TransientError(reason(error)) from error
    length = response.headers.get("Content-Length", "")
    return Opened(
        response, int(length) if re.fullmatch(r"[0-9]{1,15}", length) else None, stated_digest(response.headers)
    )


def _opener() -> urllib.request.OpenerDirector:
    # Not build_opener, which adds ftp:, file: and data:.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


def stated_digest(headers: Message) -> bytes | None:
    """Return the SHA-256 or MD5 of the whole file that an answer states, None if it states none."""
    if headers.get("Content-Encoding", "identity") != "identity" or "Content-Range" in headers:
        return None  # then they may be of other bytes
    for names, pattern in _DIGESTS:
        for name, value in headers.items():
            if re.fullmatch(names, name.lower()) and (match := re.search(pattern, value.strip(), re.IGNORECASE)):
                try:
                    return base64.b64decode(match[1], validate=True)
                except binascii.Error:
                    return None
    return None


def reason(error: Exception) -> str:
    """Return the reason of a failed connection."""
    inner = getattr(error, "reason", error)
    return getattr(inner, "strerror", None) or str(inner) or type(inner).__name__
