"""Who may speak to the server: the key, pages of other origins, slow senders; and nothing of an error leaves.

Plain ASGI, because a wrapper of FastAPI's own kind would hide from a request that its client has left.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.exceptions import HTTPException

from s1.serve.server_metrics import ServerMetrics
from s1.serve.server_settings import ServeSettings
from s1.terminal import visible

log = logging.getLogger("s1.serve")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN = ("/", "/health", "/assets/", "/favicon.ico")
"""What needs no key: the page itself, which then asks for it, and whether the server lives."""
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def error_body(message: str, kind: str = "invalid_request_error", param: str | None = None) -> dict[str, Any]:
    """An error in the form that OpenAI's clients read."""
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


class Guard:
    """Around the application. `key`: the bearer key, or empty. `loopback`: whether only this machine can connect."""

    def __init__(
        self, app: Any, *, key: str, loopback: bool, settings: ServeSettings, metrics: ServerMetrics
    ) -> None:
        self.app, self._key, self._loopback = app, key, loopback
        self._settings, self._metrics = settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status, size, body_is_here = time.perf_counter(), 0, 0, False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *SAFE]
            await send(message)

        async def receiving() -> MutableMapping[str, Any]:
            nonlocal body_is_here, size
            try:
                async with asyncio.timeout_at(None if body_is_here else body_deadline):
                    message = await receive()
            except TimeoutError:
                slow = f"The body took more than {self._settings.body_seconds:g} seconds."
                raise HTTPException(408, slow, {"Connection": "close"}) from None
            size += len(message.get("body", b""))
            if size > self._settings.body_bytes:
                large = f"The body has more than {self._settings.body_bytes} bytes."
                raise HTTPException(413, large, {"Connection": "close"})
            body_is_here = body_is_here or not message.get("more_body", False)
            return message

        body_deadline = asyncio.get_running_loop().time() + self._settings.body_seconds
        try:
            refused = self._refusal(scope)
            if refused is not None:
                await _reply(sending, *refused)
            else:
                await self.app(scope, receiving, sending)
        except Exception as error:  # a mistake of ours: where it happened is logged, what it held is not
            log_mistake(error)
            if not status:
                await _reply(sending, 500, "The server made a mistake.", "server_error")
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            log.info("%s %s %s %.2f s", scope["method"], visible(route), status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get("host", "")
        if (
            self._loopback
            and host.rpartition(":")[0 if ":" in host.rpartition("]")[2] else 2] not in LOOPBACK
        ):
            return 403, "This server is for this machine only, and the request names another host."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "A page of another origin may not use this server."
        path = scope["path"]
        is_open = any(path == p or (p.endswith("s/") and path.startswith(p)) for p in OPEN)
        if self._key and not is_open:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            same = hmac.compare_digest(given.strip().encode("latin-1"), self._key.encode())
            if scheme.lower() != "bearer" or not same:
                return 401, "The key is missing or wrong. Send it as Authorization: Bearer KEY."
        return None


def log_mistake(error: BaseException) -> None:
    at = traceback.extract_tb(error.__traceback__)[-1]
    log.error("%s at %s:%s", type(error).__name__, at.filename, at.lineno)


SAFE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


async def _reply(send: Send, status: int, message: str, kind: str = "invalid_request_error") -> None:
    headers = [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(error_body(message, kind)).encode()})
