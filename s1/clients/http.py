"""Requests to an OpenAI-compatible server, all of them through the `openai` package.

The package opens connections, sends the key, reads event streams, and repeats a request that was refused or never
arrived, after the time in Retry-After. Added here are a limit on silence, limits on the size of a
reply and of an event, and one error type that masks the key.

Requests use the package's generic `get` and `post` and return plain JSON: its typed methods declare neither token
ids nor reasoning, and building their objects takes six times as long as parsing an event.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.clients.retry import may_be_repeated, wanted_seconds
from s1.errors import BadConfig, EngineFailure, MissingExtra, first_line

if TYPE_CHECKING:
    import openai

CONNECT_SECONDS = 10.0
BLOCKING_SECONDS = 60.0
"""Longest wait for one try of a blocking request; the package repeats those."""
LARGEST_REPLY_BYTES = 1 << 28
"""No streamed reply that we ask for is larger."""
LARGEST_EVENT_BYTES = 1 << 26
"""No event of a stream, no other reply and no refusal is larger. What is larger is not read to its end."""
END = object()
NEVER_SENT = frozenset({"ConnectError", "ConnectTimeout"})
"""Errors without a connection, by the names that they have in each HTTP library under the package."""


class RequestFailure(EngineFailure):
    """A request without a whole reply: refused by the server, never arrived, cut off, or unreadable.

    status: the HTTP status of a refusal, else None. body: the server's words, key masked. retry_after: seconds that
    the server asks to wait, None where it names none. received: bytes of the reply that had arrived. cut: the
    connection broke after the reply had begun. sent: False where no connection was made, so that nothing can have
    been paid for.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        status: int | None = None,
        body: str = "",
        retry_after: float | None = None,
        received: int = 0,
        cut: bool = False,
        sent: bool = True,
    ) -> None:
        super().__init__(message, hint)
        self.status, self.body, self.retry_after, self.received = status, body, retry_after, received
        self.cut, self.sent = cut, sent


class Event(NamedTuple):
    """One event of a reply as JSON, and how many bytes of the reply have arrived so far."""

    data: Any
    received: int


class ServerClient:
    """One server. Use `events` from one event loop only; `json` blocks and works from any thread.

    key: sent as a bearer token; empty sends none. timeout: most seconds without an event; before the first event
    it includes the repeats. retries: how often the package repeats a request. connections: most at once.
    """

    def __init__(self, url: str, key: str, *, timeout: float, retries: int, connections: int) -> None:
        try:
            import openai
        except ImportError as error:
            raise MissingExtra("openai", "openai") from error
        self.url = url.rstrip("/")
        self.root = self.url.removesuffix("/v1")
        self._key, self._timeout = key, timeout
        connect = min(CONNECT_SECONDS, timeout)
        # The package repeats a request after a timeout of its own. A silent server may still be decoding, so the
        # silence of a stream is timed in `events`, which ends the request.
        timeouts = min(timeout, BLOCKING_SECONDS), None
        blocking, streaming = (openai.Timeout(seconds, connect=connect) for seconds in timeouts)
        name = key or "none"  # the package insists on a key
        try:
            self._blocking = openai.OpenAI(
                api_key=name,
                base_url=self.url,
                timeout=blocking,
                max_retries=retries,
                http_client=openai.DefaultHttpxClient(event_hooks={"response": [_limit]}),
            )
            self._streaming = openai.AsyncOpenAI(
                api_key=name,
                base_url=self.url,
                timeout=streaming,
                max_retries=retries,
                http_client=openai.DefaultAsyncHttpxClient(event_hooks={"response": [_limit_async]}),
            )
        except Exception as error:  # InvalidURL of the HTTP library below
            raise BadConfig(
                f"{url!r} is not the address of a server: {first_line(error)}.",
                "Write it like http://127.0.0.1:8000/v1.",
            ) from error
        # Not compressed, so that the bytes received bound the tokens received from above.
        headers: dict[str, str | openai.Omit] = {"Accept-Encoding": "identity"}
        if not key:
            headers["Authorization"] = openai.Omit()
        self._options: openai.RequestOptions = {"headers": headers, "follow_redirects": False}
        self._slots = asyncio.Semaphore(connections)

    async def close(self) -> None:
        self._blocking.close()
        await self._streaming.close()

    def json(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON reply to a GET, or to a POST of `body`. `path` follows the address, or is an address itself."""
        import openai

        try:
            if body is None:
                return self._blocking.get(path, cast_to=object, options=self._options)
            return self._blocking.post(path, cast_to=object, body=body, options=self._options)
        except (openai.APIError, ValueError, RecursionError) as error:
            raise self._failure(error, path) from error

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Event, None]:
        """The events of a streamed reply, or the one JSON object of a reply that is not streamed.

        Raises RequestFailure. Closing the generator hangs up, which makes servers cancel the request.
        """
        import openai

        response: Any = None
        async with self._slots:
            try:
                async with asyncio.timeout(self._timeout):
                    stream = await self._streaming.post(
                        path, cast_to=object, body=body, options=self._options,
                        stream=True, stream_cls=openai.AsyncStream[object],
                    )  # fmt: skip
                async with stream:
                    response = stream.response
                    kind = response.headers.get("content-type", "")
                    if kind.startswith("application/json"):
                        async with asyncio.timeout(self._timeout):
                            data = json.loads(await _whole_body(response))
                        yield Event(data, response.num_bytes_downloaded)
                        return
                    if not kind.startswith("text/event-stream"):
                        raise ValueError(f"{kind or 'no content type'} instead of an event stream")
                    while response.num_bytes_downloaded <= LARGEST_REPLY_BYTES:
                        async with asyncio.timeout(self._timeout):
                            data = await anext(stream, END)
                        if data is END:
                            return
                        response.aiter_bytes.count = 0
                        yield Event(data, response.num_bytes_downloaded)
                    raise ValueError(f"more than {LARGEST_REPLY_BYTES} bytes")
            except (openai.APIError, TimeoutError, ValueError, RecursionError) as error:
                raise self._failure(error, path, response) from error

    def _failure(self, error: Exception, path: str, response: Any = None) -> RequestFailure:
        """What `error` means, in words for the user. `response`: None until its headers have arrived."""
        import openai

        url = path if path.startswith("http") else self.url + path
        received = response.num_bytes_downloaded if response is not None else 0
        status = None
        if isinstance(error, openai.APIStatusError):
            return self._refusal(error, url)
        if isinstance(error, TimeoutError):
            message = f"{url} sent nothing for {self._timeout:g} s."
            hint = "Check whether the server is stuck. If it is only slow, raise timeout."
        elif isinstance(error, openai.APIConnectionError):
            why = first_line(error.__cause__ or error)
            if response is None:
                message, hint = f"{url} cannot be reached ({why}).", "Start the server, or check the address."
            else:
                message = f"{url} broke off in the middle of a reply ({why})."
                hint = "See the log of the server, then rerun the command."
        elif isinstance(error, openai.APIError):
            message, hint = f"{url} failed: {self._quoted(error.body)}.", "See the log of the server."
            code = error.body.get("code") if isinstance(error.body, Mapping) else None
            status = code if code in (400, 422) else None  # a refusal after the headers of a stream
        else:
            message = f"{url} sent a reply that cannot be read ({first_line(error)})."
            hint = "Check the address (it usually ends in /v1), and any proxy before the server."
        cut = response is not None and isinstance(error, openai.APIConnectionError)
        sent = type(error.__cause__).__name__ not in NEVER_SENT
        return RequestFailure(message, hint, status=status, received=received, cut=cut, sent=sent)

    def _refusal(self, error: openai.APIStatusError, url: str) -> RequestFailure:
        status, wait = error.status_code, wanted_seconds(error.response.headers, time.time())
        hints = {
            401: "Put the key in the environment variable OPENAI_API_KEY, or name another with api_key_env.",
            404: "Check the address (it usually ends in /v1) and the name of the model.",
        }
        hint = hints.get(status, "See the log of the server." if status >= 500 else "")
        if wait and may_be_repeated(status):
            hint = f"The server asks to wait {wait:.0f} s; try again then."
        elif 300 <= status < 400:
            hint = "It redirects to another address: use that one (often https:// instead of http://)."
        return RequestFailure(
            f"{url} replied with status {status}: {self._quoted(error.body)}.", hint,
            status=status, body=self._masked(" ".join(error.response.text.split())), retry_after=wait,
        )  # fmt: skip

    def _quoted(self, body: object) -> str:
        """The server's message within an error body, short and with the key masked."""
        text = self._masked(str(body.get("message", body) if isinstance(body, Mapping) else body))
        return repr(text if len(text) <= 300 else text[:300] + "...")

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


async def _whole_body(response: Any) -> bytes:
    """The body of a reply that is not streamed. Raises APIConnectionError where it breaks off, as streams do."""
    import openai

    try:
        body: bytes = await response.aread()
    except (TimeoutError, ValueError):
        raise
    except Exception as error:  # of the HTTP library under the package, which differs with its version
        raise openai.APIConnectionError(request=response.request) from error
    return body


class _Limited:
    """`iter_bytes` or `aiter_bytes` of a response, refusing to go on after LARGEST_EVENT_BYTES.

    Everything reads through these two: the package's decoder of events, which keeps any event whole, whole replies,
    and the package's reading of refusals, which ends before we see the response.
    """

    def __init__(self, response: Any) -> None:
        self._sync, self._async = response.iter_bytes, response.aiter_bytes
        self.count = 0
        """Bytes since the last whole event; `events` sets it back."""

    def read(self, chunk_size: int | None = None) -> Iterator[bytes]:
        for part in self._sync(chunk_size):
            self._add(part)
            yield part

    async def __call__(self, chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._async(chunk_size)) as parts:
            async for part in parts:
                self._add(part)
                yield part

    def _add(self, part: bytes) -> None:
        self.count += len(part)
        if self.count > LARGEST_EVENT_BYTES:
            raise ValueError(f"more than {LARGEST_EVENT_BYTES} bytes at once")


def _limit(response: Any) -> None:
    response.iter_bytes = _Limited(response).read


async def _limit_async(response: Any) -> None:
    response.aiter_bytes = _Limited(response)
