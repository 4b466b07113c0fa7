"""Requests to a server: time limits, retries, server-sent events. Knows nothing of models.

A request is repeated only while nothing of its answer has come: on a refused or broken connection, and on
the statuses of `s1.clients.retry`, after the time that `Retry-After` names or else an exponential backoff with jitter.
A silent server is not asked again: it may still be decoding, and a second request would double its load.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import httpx2

from s1.clients.retry import may_be_repeated, pause_seconds, wanted_seconds
from s1.errors import BadConfig, EngineFailure, first_line

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 60.0
"""A server that asks for more by Retry-After fails the request at once."""
CONNECT_SECONDS = 10.0
FINAL = (httpx2.ReadTimeout, httpx2.DecodingError)
"""Failures after which the same request is not sent again."""
LONGEST_EVENT_BYTES = 1 << 26
"""An event beyond this is not an answer."""


class Refusal(EngineFailure):
    """The server answered with a status that is not success."""

    def __init__(self, message: str, hint: str, status: int) -> None:
        super().__init__(message, hint)
        self.status = status


class Http:
    """One server. `events` must always be used from the same event loop; `json` from any thread.

    key: sent as a bearer token and nowhere else; texts of the server that repeat it are masked.
    timeout: most seconds without a word of the answer. retries: how often a request is repeated. connections:
    most at once.
    """

    def __init__(self, base: str, *, key: str | None, timeout: float, retries: int, connections: int) -> None:
        self.base = base.rstrip("/")
        self.root = self.base.removesuffix("/v1")
        self._key, self._timeout, self._retries = key, timeout, retries
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        times = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout), pool=None)
        try:
            httpx2.URL(self.base)
        except httpx2.InvalidURL as error:
            raise BadConfig(
                f"{base!r} is not the address of a server: {error}.", "Write http://127.0.0.1:8000/v1."
            ) from error
        self._client = httpx2.Client(headers=headers, timeout=times)
        self._async_client = httpx2.AsyncClient(headers=headers, timeout=times, limits=limits)
        self._places = asyncio.Semaphore(connections)  # a queue in order; the pool's own slows down when long

    async def close(self) -> None:
        self._client.close()
        await self._async_client.aclose()

    def json(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON answer. Raises Refusal for another status than success, EngineFailure otherwise."""
        for attempt in range(self._retries + 1):
            wanted: float | None = None
            try:
                response = self._client.request(method, url, json=body)
                if response.is_success:
                    return self._parsed(response.text, url)
                failure: EngineFailure = self._refusal(response.status_code, response.text, url)
                if not may_be_repeated(response.status_code):
                    raise failure
                wanted = wanted_seconds(response.headers, time.time())
            except httpx2.RequestError as error:
                failure = self._broken(error, url)
                if isinstance(error, FINAL):
                    raise failure from error
            if attempt == self._retries:
                raise failure
            time.sleep(self._pause(attempt, wanted, failure))
        raise AssertionError("unreachable")

    async def events(self, url: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """The JSON of each server-sent event up to [DONE] or the end. Closing the generator hangs up."""
        async with self._places:
            for attempt in range(self._retries + 1):
                begun, wanted = False, None
                try:
                    async with self._async_client.stream("POST", url, json=body) as response:
                        if response.is_success:
                            async for data in self._events_of(response, url):
                                begun = True
                                yield data
                            return
                        text = (await response.aread()).decode(errors="replace")
                        failure: EngineFailure = self._refusal(response.status_code, text, url)
                        if not may_be_repeated(response.status_code):
                            raise failure
                        wanted = wanted_seconds(response.headers, time.time())
                except httpx2.RequestError as error:
                    failure = self._broken(error, url, begun=begun)
                    if begun or isinstance(error, FINAL):
                        raise failure from error
                if attempt == self._retries:
                    raise failure
                await asyncio.sleep(self._pause(attempt, wanted, failure))

    async def _events_of(self, response: httpx2.Response, url: str) -> AsyncGenerator[Any, None]:
        kind = response.headers.get("content-type", "")
        if not kind.startswith("text/event-stream"):
            text = (await response.aread()).decode(errors="replace")
            raise EngineFailure(
                f"{url} answered with {kind or 'no content type'} instead of an event stream: "
                f"{self._quoted(text)}.",
                "Check that the address is that of a completions server that streams.",
            )
        rest, data, is_done = b"", list[bytes](), False
        heard = time.monotonic()
        async for piece in response.aiter_bytes():
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) + sum(map(len, data)) > LONGEST_EVENT_BYTES:
                raise EngineFailure(f"{url} sent an event of more than {LONGEST_EVENT_BYTES} bytes.")
            for line in lines:
                line = line.rstrip(b"\r")
                if line.startswith(b"data:"):
                    data.append(line[5:].strip())
                elif not line and data:  # an empty line ends an event; other fields and comments are not ours
                    text, data = b"\n".join(data).decode(errors="replace"), []
                    is_done = is_done or text == "[DONE]"
                    if not is_done:  # what follows is read and dropped: only then can the connection be kept
                        yield self._parsed(text, url)
                    heard = time.monotonic()
            if (
                time.monotonic() - heard > self._timeout
            ):  # comments keep a connection alive, but are no answer
                raise self._silent(url)

    def _parsed(self, text: str, url: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EngineFailure(
                f"{url} answered with something that is not JSON: {self._quoted(text)}.",
                "Check that the address is that of an OpenAI-compatible server (it usually ends in /v1).",
            ) from error

    def _refusal(self, status: int, text: str, url: str) -> Refusal:
        hints = {
            401: "Put the key in the environment variable OPENAI_API_KEY, or name another with api_key_env.",
            403: "The key may not do this.",
            404: "Check the address (it usually ends in /v1) and the name of the model.",
            429: "Lower connections, or raise retries.",
        }
        other = "See the log of the server." if status >= 500 else ""
        if 300 <= status < 400:
            other = "It sends to another address: give that one (often https:// instead of http://)."
        hint = hints.get(status, other)
        return Refusal(f"{url} answered {status}: {self._quoted(_message_of(text))}.", hint, status)

    def _broken(self, error: httpx2.RequestError, url: str, *, begun: bool = False) -> EngineFailure:
        if isinstance(error, httpx2.ConnectTimeout):
            return EngineFailure(f"{url}: no connection within {CONNECT_SECONDS:g} s.", "Is the server up?")
        if isinstance(error, httpx2.ReadTimeout):
            return self._silent(url)
        if isinstance(error, httpx2.DecodingError):
            return EngineFailure(
                f"{url} answered with a body that is not in the encoding it names ({first_line(error)}).",
                "Check the address, and any proxy before the server.",
            )
        told = f" ({first_line(error)})" if str(error).strip() else ""
        if begun:
            return EngineFailure(
                f"{url} broke off in the middle of an answer{told}.", "See the log of the server; run again."
            )
        return EngineFailure(f"{url} cannot be reached{told}.", "Start the server, or check the address.")

    def _silent(self, url: str) -> EngineFailure:
        return EngineFailure(
            f"{url} was silent for {self._timeout:g} s.", "Is it stuck? If it is only slow, raise timeout."
        )

    def _pause(self, attempt: int, wanted: float | None, failure: EngineFailure) -> float:
        if wanted is not None and wanted > LONGEST_WAIT_SECONDS:
            raise EngineFailure(
                f"{failure.message} It asks to wait {wanted:.0f} s.", "Try again after that time."
            )
        return pause_seconds(attempt, wanted, first=FIRST_BACKOFF_SECONDS, chance=random.random())

    def _quoted(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "***")
        return repr(text if len(text) <= 300 else text[:300] + "...")


def _message_of(text: str) -> str:
    """The message within an error body of the OpenAI kind, else the body."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        return str(found.get("message", found)) if isinstance(found, dict) else str(found)
    except (ValueError, AttributeError, RecursionError):
        return text
