"""An `Answerer` for any OpenAI-compatible chat API: retries, rate limits, a spending cap, thinking of any shape.

httpx2 rather than the openai client: the cap and the journal need to see every try, also those that failed,
and that client repeats requests on its own and reads no reasoning fields.

| what comes                                       | what is done                                            |
|--------------------------------------------------|---------------------------------------------------------|
| 429, 503 with Retry-After                         | every request waits so long; no try is used up           |
| what `retry` repeats, broken connection, silence  | again, after a wait that doubles up to a minute         |
| half a stream, no JSON, no choices, an empty reply | again; what had come is booked as lost                   |
| 401, 402, 403, 404, quota used up                 | the run ends with the server's words; the journal stays  |
| any other 4xx                                     | this row is refused with the server's words              |
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from s1.clients.call_cache import CallCache, ModelCall, ModelReply
from s1.clients.chat_replies import Broken, read_json, read_stream
from s1.clients.map_calls import Refused
from s1.clients.rate import Rate, Try
from s1.clients.retry import may_be_repeated, pause_seconds, wanted_seconds
from s1.errors import BadConfig, MissingExtra, S1Error

if TYPE_CHECKING:
    import httpx2

FATAL = frozenset({401, 402, 403, 404})
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""A server that asks for a longer pause ends the run; the same command goes on later."""
BYTES_A_TOKEN = 3
"""Of a prompt, for the limit of tokens per minute. English text has four."""
MOST_PAUSES = 200
"""How often one request may be put off by Retry-After before that uses up tries."""


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where and how to ask. Only `model`, `max_tokens`, `temperature`, `top_p`, `system` and `body` shape replies."""

    url: str = "https://api.openai.com/v1"
    model: str = ""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable with the key. It is sent to `url` and written nowhere."""
    max_tokens: int = 32_768
    temperature: float | None = None
    """None leaves it to the server. The paper's attempts use 0.05."""
    top_p: float | None = None
    system: str = ""
    body: Mapping[str, Any] = field(default_factory=dict)
    """More fields of the request as they are, e.g. {"reasoning_effort": "high"} or {"chat_template_kwargs": ...}."""
    limit_field: str = "max_tokens"
    """Some servers call it max_completion_tokens."""
    stream: bool = True
    """Streaming notices a cut reply, and no proxy gives up on a long silence."""
    concurrency: int = 64
    tries: int = 10
    timeout_seconds: float = 600.0
    """Longest silence."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """What the server allows, prompts and replies together; see `rate`. A try counts with a third of the bytes of
    its body and the full `max_tokens` until it is known what it used."""
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0
    max_usd: float | None = None
    """Most to spend in all, counted over the journal. A request is sent only if its worst case fits."""

    def __post_init__(self) -> None:
        if self.max_usd is not None and not (self.usd_per_million_in or self.usd_per_million_out):
            raise BadConfig(
                "A spending cap needs prices.", "Give usd_per_million_in and usd_per_million_out."
            )
        if self.max_tokens < 1 or self.tries < 1 or self.concurrency < 1 or self.timeout_seconds <= 0:
            raise BadConfig(
                "API settings: max_tokens, tries, concurrency and timeout_seconds must be positive."
            )
        if any(
            limit is not None and limit < 1 for limit in (self.requests_per_minute, self.tokens_per_minute)
        ):
            raise BadConfig("API settings: a limit per minute must be at least 1.", "None means no limit.")
        if not self.url.startswith(("http://", "https://")):
            raise BadConfig(f"{self.url!r} is no address.", "It begins with http:// or https://.")

    @property
    def name(self) -> str:
        return self.model

    def answering(self, journal: CallCache) -> Api:
        """The open server, as an async context manager that gives an Answerer."""
        return Api(self, journal)

    def request(self, text: str, sample: int = 0, *, system: str | None = None) -> ModelCall:
        """The request for one user message."""
        if not self.model:
            raise BadConfig("No model was named.", "Give its name as the server knows it.")
        system = self.system if system is None else system
        messages = ((("system", system),) if system else ()) + (("user", text),)
        shape: dict[str, Any] = {self.limit_field: self.max_tokens, **self.body}
        if self.temperature is not None:
            shape["temperature"] = self.temperature
        if self.top_p is not None:
            shape["top_p"] = self.top_p
        return ModelCall(self.model, messages, shape, sample)


class SpendingCap:
    """What may still be spent. Each call sets its worst case aside first, so the cap holds at any moment."""

    def __init__(self, cap: float | None, spent: float = 0.0) -> None:
        self._cap, self._spent, self._held = cap, spent, 0.0
        self._changed = asyncio.Condition()

    async def hold(self, usd: float) -> None:
        """Set `usd` aside, waiting for what others hold. Raises Refused when it can never fit."""
        async with self._changed:
            while self._cap is not None and self._spent + self._held + usd > self._cap:
                if not self._held:
                    raise Refused("not asked: the spending cap is reached")
                await self._changed.wait()
            self._held += usd

    async def settle(self, held: float, spent: float) -> None:
        """Give back what was held and count what was spent."""
        async with self._changed:
            self._held, self._spent = max(self._held - held, 0.0), self._spent + spent
            if self._held < 1e-12:
                self._held = 0.0
            self._changed.notify_all()


class Api:
    """One server. `await api(request)` is an Answerer; use as an async context manager."""

    def __init__(self, settings: ApiSettings, journal: CallCache) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingExtra("httpx2", "data") from error
        self.settings, self._journal = settings, journal
        self._key = os.environ.get(settings.key_env, "").strip()
        self._purse = SpendingCap(settings.max_usd, journal.spent_usd)
        self._rate = Rate(settings.requests_per_minute, settings.tokens_per_minute)
        self._random = random.Random()
        self._not_before = 0.0
        self._heard = False
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=settings.concurrency)
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(settings.timeout_seconds, connect=min(30.0, settings.timeout_seconds)),
            limits=limits,
        )

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def __call__(self, request: ModelCall) -> ModelReply:
        """The reply, after as many tries as it takes. Raises Refused, or S1Error to end the run."""
        body = self._body(request)
        tries = pauses = 0
        while True:
            tries += 1
            try:
                return await self._try(request, body)
            except Broken as broken:
                why = self._masked(str(broken))
                wait = pause_seconds(
                    tries - 1, None, first=FIRST_BACKOFF_SECONDS, chance=self._random.random()
                )
                if broken.retry_after and pauses < MOST_PAUSES:
                    self._postpone(broken.retry_after, why)
                    tries, pauses, wait = tries - 1, pauses + 1, 0.0
            if tries >= self.settings.tries:
                if not self._heard:
                    raise S1Error(
                        f"No reply from {self.settings.url}: {why}.",
                        "Check the address and the server; the same command goes on from here.",
                    )
                raise Refused(f"no reply in {tries} tries: {why}")
            await asyncio.sleep(wait)

    def _body(self, request: ModelCall) -> bytes:
        messages = [{"role": role, "content": text} for role, text in request.messages]
        body: dict[str, Any] = {"model": request.model, "messages": messages, **request.settings}
        if self.settings.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(body).encode()

    async def _try(self, request: ModelCall, body: bytes) -> ModelReply:
        """One try, with its worst case set aside and its real cost booked, whatever happens."""
        import httpx2

        settings = self.settings
        # A token is at least one byte, so bytes bound the prompt from above.
        bound = self._usd(len(body) + 64, settings.max_tokens)
        await self._purse.hold(bound)
        spent, used, why = 0.0, 0, ""
        turn: Try | None = None
        try:
            turn = await self._turn(len(body) // BYTES_A_TOKEN + settings.max_tokens)
            began = time.monotonic()
            try:
                reply = await self._exchange(body)
            except httpx2.HTTPError as error:
                raise Broken(f"{type(error).__name__} {error}".strip()) from None
            used = reply.prompt_tokens + reply.completion_tokens
            if reply.exact:
                spent = self._usd(reply.prompt_tokens, reply.completion_tokens)
            else:
                spent = min(bound, self._usd(len(body), reply.completion_tokens))
            self._heard = True
            return ModelReply(
                reply.thinking, reply.answer, reply.finish, reply.prompt_tokens, reply.completion_tokens,
                spent, reply.exact, round(time.monotonic() - began, 3),
            )  # fmt: skip
        except Broken as broken:
            why = str(broken)
            used = broken.received
            spent = min(bound, self._usd(len(body), broken.received)) if broken.received else 0.0
            raise
        finally:
            if why and spent:
                self._journal.book(request, self._masked(why), spent)
            if turn is not None:
                self._rate.settle(turn, min(turn.tokens, used))
            await self._purse.settle(bound, spent)

    async def _exchange(self, body: bytes) -> ModelReply:
        url = self.settings.url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        async with self._client.stream("POST", url, content=body, headers=headers) as response:
            if response.status_code != 200:
                await self._refuse(response)
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                return await read_stream(response.aiter_lines())
            return read_json(await response.aread())

    async def _refuse(self, response: httpx2.Response) -> None:
        status = response.status_code
        text = self._masked(" ".join((await response.aread())[:2000].decode(errors="replace").split()))
        said = f"HTTP {status}" + (f": {text[:300]}" if text else "")
        if status in FATAL or "insufficient_quota" in text:
            hint = "Mend that; the same command goes on from here."
            if status == 401 and not self._key:
                hint = f"Put the key into the environment variable {self.settings.key_env}."
            raise S1Error(f"{self.settings.url} refuses: {said}.", hint)
        if "stream_options" in text:
            raise S1Error(
                f"{self.settings.url} refuses: {said}.", "Ask without streaming: --set stream=false."
            )
        if may_be_repeated(status):
            raise Broken(f"HTTP {status}", retry_after=wanted_seconds(response.headers, time.time()))
        raise Refused(said)

    def _postpone(self, seconds: float, why: str) -> None:
        if seconds > LONGEST_RETRY_AFTER_SECONDS:
            raise S1Error(
                f"{self.settings.url} asks for a pause of {seconds / 3600:.1f} hours ({why}).",
                "Run the same command again then; what was stored is kept.",
            )
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def _turn(self, tokens: int) -> Try:
        """Waits for what Retry-After and the limits per minute ask for."""
        while True:
            while (wait := self._not_before - time.monotonic()) > 0:
                # A little apart, so that they do not all come back in the same instant.
                await asyncio.sleep(wait + self._random.uniform(0.0, 0.05))
            turn = await self._rate.enter(tokens)
            if self._not_before <= time.monotonic():
                return turn
            self._rate.leave(turn)  # a refusal came meanwhile

    def _usd(self, tokens_in: int, tokens_out: int) -> float:
        s = self.settings
        return (tokens_in * s.usd_per_million_in + tokens_out * s.usd_per_million_out) / 1e6

    def _masked(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text
