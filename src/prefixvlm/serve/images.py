"""Images of requests: from data: URLs, base64 and allowed hosts, decoded beside the event loop."""

import asyncio
import base64
import binascii
import http.client
import threading
import time
import urllib.request
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote_to_bytes, urlsplit

from fastapi import HTTPException
from PIL import Image

from prefixvlm.data.image import ImageDecoder

NUM_DECODERS, NUM_FETCHERS = 2, 8
FETCH_SECONDS = 10.0


class Images:
    """Decodes images. max_bytes: of an image. max_held: pixels of all decoded images at a time. hosts: allowed ones."""

    def __init__(self, decoder: ImageDecoder, max_bytes: int, max_held: int, hosts: Sequence[str] = ()) -> None:
        self.decoder, self.max_bytes, self.max_held = decoder, max_bytes, max_held
        self.hosts = frozenset(host.lower() for host in hosts)  # as urlsplit spells them
        self.held = 0
        # Reentrant: the garbage collector may free an image, which calls _hold, while its thread is in _hold.
        self._lock = threading.RLock()
        self._decoders = ThreadPoolExecutor(NUM_DECODERS, "decoder")
        self._fetchers = ThreadPoolExecutor(NUM_FETCHERS, "fetcher")

    async def read(self, source: str) -> tuple[bytes, Image.Image]:
        """Return the bytes of an image and the decoded image.

        source: a data: URL, base64, or an http(s) URL of an allowed host. Raises ValueError for what is none of these
        or no image, HTTPException 429 if too many pixels are held.
        """
        loop = asyncio.get_running_loop()
        if source[:8].lower().startswith(("http://", "https://")):
            self._check_host(source)
            data = await loop.run_in_executor(self._fetchers, self._fetch, source)
        else:
            data = await loop.run_in_executor(self._decoders, bytes_of, source)
        return data, await loop.run_in_executor(self._decoders, self._decode, data)

    def close(self) -> None:
        self._decoders.shutdown()
        self._fetchers.shutdown(wait=False)

    def _decode(self, data: bytes) -> Image.Image:
        header = self.decoder.header(data)
        pixels = header.width * header.height
        self._hold(pixels)
        try:
            image = self.decoder(data)
        except Exception:
            self._hold(-pixels)
            raise
        weakref.finalize(image, self._hold, -pixels)  # when its memory is free again, whoever held it last
        return image

    def _hold(self, pixels: int) -> None:
        with self._lock:
            if pixels > 0 and self.held and self.held + pixels > self.max_held:
                raise HTTPException(429, "the images that wait have as many pixels as may; try again later")
            self.held += pixels

    def _check_host(self, url: str) -> None:
        host = urlsplit(url).hostname
        if host not in self.hosts:
            allowed = f"of {', '.join(sorted(self.hosts))}" if self.hosts else "of hosts in --allow-remote-host"
            raise ValueError(f"an image is at {host}; give a data: URL, or one {allowed}")

    def _fetch(self, url: str) -> bytes:
        opener = urllib.request.OpenerDirector()  # follows no redirect, which could lead to a host that is not allowed
        for handler in (urllib.request.ProxyHandler, urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
            opener.add_handler(handler())
        end, data = time.monotonic() + FETCH_SECONDS, b""
        try:
            with opener.open(url, timeout=FETCH_SECONDS) as answer:
                if answer.status != 200:
                    raise ValueError(f"the answer has the code {answer.status}")
                while chunk := answer.read1(2**16):
                    data += chunk
                    if len(data) > self.max_bytes:
                        raise ValueError(f"more than {self.max_bytes} bytes")
                    if time.monotonic() > end:
                        raise ValueError(f"it takes more than {FETCH_SECONDS:g} s")
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise ValueError(f"the image at {urlsplit(url).hostname} cannot be read ({error})") from error
        return data


def bytes_of(source: str) -> bytes:
    """Return the bytes of a data: URL or of base64. Raises ValueError for what is neither."""
    text = source.strip()
    if text[:5].lower() == "data:":
        head, comma, text = text[5:].partition(",")
        if not comma:
            raise ValueError("an image is a data: URL without a comma; write data:image/png;base64,...")
        if not head.lower().endswith(";base64"):
            return unquote_to_bytes(text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("an image is neither a data: URL nor base64") from error
