"""The subcommand `prefixvlm serve`: an HTTP server with a page for a checkpoint."""

import argparse
import os
import socket
from dataclasses import fields
from pathlib import Path

from prefixvlm.checkpoint.hub_folder import find_here
from prefixvlm.inference.options import add_checkpoint, add_device, add_dtype
from prefixvlm.serve.limits import Limits

KEY = "PREFIXVLM_API_KEY"


def add_serve(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--host", default="127.0.0.1",
        help=f"address to listen at (%(default)s); if it is another, set {KEY} in the environment, which clients send",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free (%(default)s)")
    parser.add_argument("--name", default="prefixvlm", help="of the model in requests (%(default)s)")
    add_device(parser)
    add_dtype(parser)
    parser.add_argument(
        "--allow-remote-host", action="append", default=[], metavar="HOST",
        help="from which images are fetched; may be repeated; default: none",
    )  # fmt: skip
    parser.add_argument("--feedback", type=Path, metavar="DIR", help="a folder for corrections that the page collects")
    for each in fields(Limits):
        parser.add_argument(
            f"--{each.name.replace('_', '-')}", type=type(each.default), default=each.default, metavar="N",
            help=f"{each.metadata['help']} (%(default)s)",
        )  # fmt: skip
    parser.set_defaults(run=_serve)


def _serve(arguments: argparse.Namespace) -> None:
    limits = Limits(**{each.name: getattr(arguments, each.name) for each in fields(Limits)})
    key = os.environ.get(KEY)
    if key is not None and not (key.isascii() and key.strip() == key and key):
        raise ValueError(
            f"{KEY} is empty, or has letters that are not ASCII, or white space around it; set or unset it"
        )
    find_here(arguments.ckpt, "--ckpt")
    if arguments.feedback is not None and arguments.feedback.exists() and not arguments.feedback.is_dir():
        raise ValueError(
            f"--feedback is {arguments.feedback}, which is a file; give a folder, or the name of a new one"
        )
    _bind(arguments.host, arguments.port).close()  # before the model is loaded, which takes seconds
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{error.name} is missing; install it with pip install 'prefixvlm[serve]'") from error
    # Imported here, because torch takes seconds, and most subcommands do not need it.
    from prefixvlm.inference.captioner import Captioner
    from prefixvlm.serve.app import create_app
    from prefixvlm.serve.http.server import run, warm_up
    from prefixvlm.serve.service import Settings

    model = Captioner(arguments.ckpt, arguments.device, arguments.dtype)
    settings = Settings(arguments.name, limits, tuple(arguments.allow_remote_host), arguments.feedback)
    bound = _bind(arguments.host, arguments.port)
    local = bound.getsockname()[0].startswith("127.") or bound.getsockname()[0] == "::1"
    app = create_app(model, settings, key, local)
    warm_up(model)
    run(app, bound, limits, None if key or local else f"anyone who reaches it may use it; set {KEY}")


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound and does not listen yet. Raises ValueError if that cannot be."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is {port}; set it to 0 ... 65535")
    bound = None
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a former server may linger
        bound.bind(address)
    except OSError as error:
        if bound is not None:
            bound.close()
        raise ValueError(f"cannot listen at --host {host} --port {port} ({error.strerror}); set others") from error
    return bound
