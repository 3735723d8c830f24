"""A server on a socket: the page's, or any other application's."""

import socket
from collections.abc import Callable
from ipaddress import ip_address

import uvicorn

from tierline.errors import InputError
from tierline.web.app import create_app
from tierline.web.guard import LOOPBACK, App


class _Server(uvicorn.Server):
    """Says where it is once it listens, and ends when `ended` says so."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], ended: Callable[[], bool]) -> None:
        super().__init__(config)
        self._ready, self._ended = ready, ended

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        self._ready()

    async def on_tick(self, counter: int) -> bool:
        """Return whether to end now; asked ten times a second."""
        return await super().on_tick(counter) or self._ended()


def serve(host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve the page on `host` until interrupted; `announce` gets its address once it answers.

    Raises InputError where the address cannot be had.
    """
    serve_app(create_app((host, *LOOPBACK)), host, port, announce)


def serve_app(
    app: App,
    host: str,
    port: int,
    announce: Callable[[str], None],
    *,
    grace_s: int = 1,
    connections: int = 64,
    ended: Callable[[], bool] = lambda: False,
) -> None:
    """Serve `app` on `host` until interrupted or `ended`; `announce` gets its address once it answers.

    What is being answered then has `grace_s` to come to its end. Raises InputError where the address cannot
    be had.
    """
    listening = _listening(host, port)
    bound = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=grace_s,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=2**16,
        limit_concurrency=connections,
        ws="none",
    )
    with listening:
        _Server(config, lambda: announce(f"http://{shown}:{bound}/"), ended).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if host != "localhost" and ip_address(host).version == 6 else socket.AF_INET
    except ValueError:
        raise InputError(
            f"--host {host[:80]!r}: want an address of this computer, such as 127.0.0.1"
        ) from None
    # Named as TCP, asyncio sends at once what is written: else an answer's last piece waits for the
    # acknowledgement of the one before, which a client delays by 40 ms.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        raise InputError(f"--host {host} --port {port}: {error.strerror}: choose another --port") from None
    return found
