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

OTHER_FILES = 200
"""Files that the process may need besides connections: the model's, an upstream's connections."""
HEADER_SECONDS = 10.0
"""A connection whose request line and headers have not arrived by then is closed."""


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for the end of the headers, and takes every connection."""

    most_connections = 2000
    _deadline: asyncio.TimerHandle | None = None
    _quiet_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.most_connections:
            silent = [c for c in self.connections if isinstance(c, ImpatientProtocol) and c._is_waiting()]
            oldest = min(silent, key=lambda each: each._quiet_since, default=None)
            if oldest is not None:
                self.connections.discard(oldest)
                oldest.transport.abort()
            else:
                transport.abort()
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

    def _is_waiting(self) -> bool:
        """Whether the client is to send something: headers, or the rest of a body."""
        return self._is_between_requests() or self.cycle.more_body

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._quiet_since = loop.time()
        self._deadline = loop.call_later(HEADER_SECONDS, self._give_up)

    def _stop_timer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._is_between_requests() and not self.transport.is_closing():
            self.transport.close()


def _room_for_connections(wanted: int) -> int:
    """How many connections the system lets this process have, at most `wanted`; its limit is raised where it may be."""
    try:
        import resource
    except ImportError:  # not on Windows
        return wanted
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if now == resource.RLIM_INFINITY or now >= needed:
        return wanted
    now = needed if most == resource.RLIM_INFINITY else min(needed, most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (now, most))
    return max(1, now - OTHER_FILES)


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
    most = _room_for_connections(served.settings.connections)
    protocol = type("Protocol", (ImpatientProtocol,), {"most_connections": most})
    config = uvicorn.Config(
        app,
        http=protocol,
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
