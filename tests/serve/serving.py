"""A server in a thread on a free port."""

import base64
import socket
import struct
import threading
import time
import zlib
from contextlib import contextmanager

from prefixvlm.serve.app import create_app
from prefixvlm.serve.http.server import server_of
from prefixvlm.serve.limits import Limits
from prefixvlm.serve.service import Settings


@contextmanager
def serving(model, key=None, feedback=None, **limits):
    """Yield (URL, application) of a running server."""
    settings = Settings(limits=Limits(**limits), feedback=feedback)
    app = create_app(model, settings, key)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        server = server_of(app, bound, settings.limits)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{bound.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join(30)
            app.state.service.close()
    assert not thread.is_alive()


def data_url(path):
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def png_of_size(width, height):
    """Return the data: URL of a small PNG that says it has so many pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width // 8 + 1) * 10))
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()
