"""The server on a socket: uvicorn, with a limit on connections that send nothing."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from s1.errors import BadConfig
from s1.serve.app import create_app
from s1.serve.body import Served
from s1.serve.guard import LOOPBACK

HEADER_SECONDS = 10.0
"""A connection whose request line and headers have not arrived by then is closed."""


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for the end of the headers."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self._deadline is None and self._is_between_requests():
            self._start_timer()
        super().data_received(data)
        if not self._is_between_requests():
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        self._deadline = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._give_up)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.close()


def is_loopback(host: str) -> bool:
    return host in LOOPBACK or host == "::1"


def bind(host: str, port: int, key: str) -> socket.socket:
    """A listening socket. Raises BadConfig for an address that others can reach when there is no key."""
    if not is_loopback(host) and not key:
        raise BadConfig(
            f"{host} can be reached from other machines, and there is no key.",
            "Put a long random key into the environment variable S1_API_KEY, or use --host 127.0.0.1.",
        )
    try:
        listener = socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=2048
        )
    except (OSError, OverflowError) as error:
        raise BadConfig(f"{host}:{port} cannot be used: {error}.", "Choose another --port.") from error
    # Accepted connections inherit it. Without it, small events wait for the client's acknowledgement, 40 ms each.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def make_server(
    served: Served, listener: socket.socket, *, key: str = "", log_requests: bool = False
) -> uvicorn.Server:
    """The server for a socket; `run(sockets=[listener])` serves until SIGINT or SIGTERM.

    Running requests then have `shutdown_seconds` to finish.
    """
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("s1.serve").setLevel(logging.INFO if log_requests else logging.WARNING)
    app: Any = create_app(served, key=key, loopback=is_loopback(listener.getsockname()[0]))
    config = uvicorn.Config(
        app,
        http=ImpatientProtocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, round(served.settings.shutdown_seconds)),
    )
    return uvicorn.Server(config)
