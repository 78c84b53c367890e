"""`maskwise serve`: the model behind HTTP until it is told to stop.

What is heavy is imported when the command runs: `maskwise serve --help` needs no torch.
"""

import ipaddress
import logging
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import tyro

from maskwise.serve.limits import MEBIBYTE, Limits

if TYPE_CHECKING:
    from maskwise.serve.batching import Predictor
    from maskwise.serve.guard import Access

NEEDED = ("fastapi", "uvicorn", "python_multipart")
DEFAULTS = Limits()
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

log = logging.getLogger("maskwise.serve")


def main(argv: list[str]) -> int:
    """Exit code: 0 after a stop that was asked for; 2 where it cannot start."""
    try:
        tyro.cli(serve, args=argv, prog="maskwise serve")
    except ValueError as error:
        print(f"maskwise serve: {error}", file=sys.stderr)
        return 2
    return 0


def serve(
    *,
    model: str = "nuclei",
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    key_file: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(default: none is asked for)")
    ] = None,
    allow_host: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = (),
    max_pixels: int = DEFAULTS.max_pixels,
    max_body: int = DEFAULTS.max_body // MEBIBYTE,
    max_files: int = DEFAULTS.max_files,
    queue: int = DEFAULTS.queue,
    timeout: float = DEFAULTS.timeout,
    max_batch: int = DEFAULTS.max_batch,
    max_wait_ms: float = DEFAULTS.max_wait_ms,
) -> None:
    """Serve a model over HTTP, with a page for people at /. Stop it with Ctrl-C or SIGTERM: what was begun is answered.

    Args:
        model: name, file or folder of the model
        host: address to listen on; from other than loopback anyone who reaches this machine may ask
        port: 0 takes any free one
        device: auto, cpu, cuda, cuda:1, mps
        key_file: file with a key that requests must carry, as Authorization: Bearer KEY
        allow_host: names that the server may be called by, for proxies; others are refused, but for its own on loopback
        max_pixels: of a picture
        max_body: mebibytes of a request
        max_files: pictures in a request
        queue: pictures taken on at once; more are answered with 503 and Retry-After
        timeout: seconds for an answer
        max_batch: pictures that the model is given at once
        max_wait_ms: how long an idle model waits for more of them
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f"{missing[0]} is not installed: pip install 'maskwise[serve]', in a checkout '.[serve]'")
    limits = Limits(
        max_pixels=max_pixels,
        max_body=max_body * MEBIBYTE,
        max_files=max_files,
        queue=queue,
        timeout=timeout,
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
    )
    access = access_of(host, key_file, allow_host)
    with listening(host, port) as listener:  # before the model: a port that is taken is told at once
        from maskwise.model import load

        log.info("loading %s", model)
        run(load(model, device=device), listener, limits=limits, access=access)


def access_of(host: str, key_file: Path | None, allow_host: tuple[str, ...]) -> "Access":
    from maskwise.serve.guard import Access

    key = None if key_file is None else key_in(key_file)
    if is_loopback(host):
        return Access(key=key, hosts=(*LOOPBACK, host.lower(), *(name.lower() for name in allow_host)))
    if key is None:
        log.warning("warning: anyone who can reach %s may use this server; --key-file asks for a key", host)
    return Access(key=key, hosts=tuple(name.lower() for name in allow_host))


def key_in(path: Path) -> str:
    """Whatever an editor puts before it or behind it is no part of it."""
    try:
        return path.read_text("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a key is printable ASCII, this file holds something else") from error


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def listening(host: str, port: int) -> socket.socket:
    """A socket on that address, of whichever kind the address is."""
    if not 0 <= port <= 65_535:
        raise ValueError(f"a port is a number from 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError as error:
        raise ValueError(f"cannot listen on {host} port {port}: {error}") from error


def run(model: "Predictor", listener: socket.socket, *, limits: Limits, access: "Access") -> None:
    """Until a signal comes."""
    import uvicorn

    from maskwise.serve.app import create_app
    from maskwise.serve.connection import Connection

    app = create_app(model, limits, access=access)
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # ours has request ids
        server_header=False,
        proxy_headers=False,  # nobody's word for where a request comes from
        limit_concurrency=512,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=int(limits.timeout) + 5,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    host, port = listener.getsockname()[:2]
    log.info("%s is served at http://%s:%d", app.state.service.name, f"[{host}]" if ":" in host else host, port)
    server = uvicorn.Server(config)
    stop = server.handle_exit

    def note_and_stop(sig: int, frame: FrameType | None) -> None:
        app.state.service.draining = True
        stop(sig, frame)

    server.handle_exit = note_and_stop
    previous = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn raises it again once all is answered
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)
    log.info("stopped")
