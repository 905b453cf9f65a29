"""Runs the application with uvicorn until a signal, and then until all that was asked is answered."""

import signal
import socket
import sys

import uvicorn
from fastapi import FastAPI

from prefixvlm.data.sample import BLACK_IMAGE
from prefixvlm.inference.captioner import Captioner
from prefixvlm.serve.http.protocol import protocol_with
from prefixvlm.serve.limits import Limits


class Server(uvicorn.Server):
    """uvicorn's server, with a message when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: str) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.ready, flush=True)


def server_of(app: FastAPI, bound: socket.socket, limits: Limits) -> Server:
    """Return a server for a bound socket."""
    config = uvicorn.Config(
        app, http=protocol_with(limits.body_timeout_s), ws="none", lifespan="off", log_config=None, access_log=False,
        server_header=False, limit_concurrency=limits.max_connections,
        timeout_graceful_shutdown=int(limits.timeout_s + limits.body_timeout_s) + 1,
    )  # fmt: skip
    host, port = bound.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return Server(config, f"{app.state.service.settings.name} is ready at {url} (Ctrl-C stops it)")


def run(app: FastAPI, bound: socket.socket, limits: Limits, warning: str | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C, then answer what was asked, and return. A second Ctrl-C ends at once."""
    # uvicorn raises the signal once more when it is done: this would end the process by it, and not with exit code 0.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    if warning:
        print(f"warning: {warning}", file=sys.stderr)
    server_of(app, bound, limits).run(sockets=[bound])
    app.state.service.close()


def warm_up(model: Captioner) -> None:
    """Compute once, so that the first request need not wait for what is set up at the first computation."""
    model.embed(BLACK_IMAGE)
    if any(not task.has_head for task in model.module.tasks.values()):
        model.generate([BLACK_IMAGE], max_new_tokens=2)
