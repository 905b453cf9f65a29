"""A web server of a folder that fails at random: errors, stalls, cut bodies, other bytes and wrong lengths."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = ("500", "404", "stall", "cut", "other bytes", "too long", "slow")
SHARE = 0.4  # of the requests fail; each shard is asked for up to 5 times


class Handler(SimpleHTTPRequestHandler):
    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        # A manifest is read once, and a 404 of it means that there is none.
        if not self.path.endswith(".tar") or self.server.rng.random() > SHARE:
            return super().do_GET()
        fault = self.server.rng.choice(FAULTS)
        self.server.seen.append(fault)
        if fault.isdigit():
            return self.send_error(int(fault))
        data = (Path(self.directory) / self.path.split("?")[0].lstrip("/")).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) + (999 if fault == "too long" else 0)))
        self.end_headers()
        with contextlib.suppress(OSError):  # the client has gone
            if fault == "stall":
                self.wfile.write(data[:100])
                time.sleep(40)  # longer than a client waits
            elif fault == "cut":
                self.wfile.write(data[: len(data) // 2])
            elif fault == "slow":
                for first in range(0, len(data), 4096):
                    self.wfile.write(data[first : first + 4096])
                    time.sleep(0.1)
            else:
                self.wfile.write(bytes(len(data)) if fault == "other bytes" else data)
        return None


@contextlib.contextmanager
def bad_server(folder: Path, rng: random.Random) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on 127.0.0.1. Yields the URL, and the list to which each fault is added."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.daemon_threads = True
    server.rng, server.seen = rng, []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.seen  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
