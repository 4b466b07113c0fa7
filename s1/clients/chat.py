"""One model behind an OpenAI-compatible chat endpoint: repeats, Retry-After, a spending cap.

| what comes                                         | what is done                                              |
|----------------------------------------------------|-----------------------------------------------------------|
| 429, 503 with Retry-After                          | every request waits that long; no try is used up           |
| other statuses that `retry` repeats, no connection, silence | tried again, after a wait that doubles up to a minute |
| a reply cut off, not JSON, without choices or empty | tried again; what had arrived is booked as lost           |
| silence after the request was sent                 | tried again; booked as lost at its worst price             |
| 401, 402, 403, 404, quota used up                  | the run ends with the server's words; the call cache stays |
| any other 4xx                                      | this row is refused with the server's words               |

The tries are counted here and not by the `openai` package (its max_retries is 0): the spending cap must reserve and
book each try, a Retry-After must hold back all requests, and a reply that breaks while it streams must be repeated.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from s1.clients.call_cache import CallCache, ModelCall, ModelReply
from s1.clients.chat_replies import read_reply
from s1.clients.http import RequestFailure, ServerClient
from s1.clients.map_calls import Refused
from s1.clients.retry import backoff_seconds, may_be_repeated
from s1.errors import BadConfig, Interrupted, S1Error

FATAL = frozenset({401, 402, 403, 404})
FIRST_BACKOFF_SECONDS = 1.0
LONGEST_RETRY_AFTER_SECONDS = 3600.0
"""A server that asks for a longer pause ends the run; the same command resumes it later."""
MOST_PAUSES = 200
"""How often Retry-After may postpone one request before it uses up tries."""


def default_url() -> str:
    return os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Where and how to ask. Only `model`, `max_tokens`, `temperature`, `top_p`, `system` and `body` shape replies."""

    url: str = field(default_factory=default_url)
    """Default: the environment variable OPENAI_BASE_URL, else OpenAI's own server."""
    model: str = ""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. The key is sent to `url` and never written down."""
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
    """Streaming shows when a reply is cut off, and keeps proxies from giving up on a long silence."""
    concurrency: int = 64
    tries: int = 10
    timeout_seconds: float = 600.0
    """Longest time without an event of the reply (without streaming: until the whole reply)."""
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0
    max_usd: float | None = None
    """Most to spend in all, counting what the call cache has booked. A request is sent only if its worst case fits."""

    def __post_init__(self) -> None:
        if self.max_usd is not None and not (self.usd_per_million_in or self.usd_per_million_out):
            raise BadConfig(
                "A spending cap needs prices.", "Give usd_per_million_in and usd_per_million_out."
            )
        if self.max_tokens < 1 or self.tries < 1 or self.concurrency < 1 or self.timeout_seconds <= 0:
            raise BadConfig(
                "API settings: max_tokens, tries, concurrency and timeout_seconds must be positive."
            )
        if not self.url.startswith(("http://", "https://")):
            raise BadConfig(f"{self.url!r} is not an address.", "An address begins with http:// or https://.")

    @property
    def name(self) -> str:
        return self.model

    def connect(self, cache: CallCache) -> ChatClient:
        """The server, as an async context manager that gives an Answerer."""
        return ChatClient(self, cache)

    def request(self, text: str, sample: int = 0, *, system: str | None = None) -> ModelCall:
        """The call for one user message."""
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
    """What may still be spent. Each try reserves its worst case first, so the cap holds at any moment."""

    def __init__(self, cap: float | None, spent: float = 0.0) -> None:
        self._cap, self._spent, self._reserved = cap, spent, 0.0
        self._changed = asyncio.Condition()

    async def reserve(self, usd: float) -> None:
        """Reserve `usd`, waiting for what others have reserved. Raises Refused when it can never fit."""
        async with self._changed:
            while self._cap is not None and self._spent + self._reserved + usd > self._cap:
                if not self._reserved:
                    raise Refused("not asked: the spending cap is reached")
                await self._changed.wait()
            self._reserved += usd

    async def settle(self, reserved: float, spent: float) -> None:
        """Release a reservation and count what was spent of it."""
        async with self._changed:
            self._reserved, self._spent = max(self._reserved - reserved, 0.0), self._spent + spent
            if self._reserved < 1e-12:
                self._reserved = 0.0
            self._changed.notify_all()


class ChatClient:
    """One chat model. `await client(call)` gives the reply; use as an async context manager."""

    def __init__(self, settings: ApiSettings, cache: CallCache) -> None:
        self.settings, self._cache = settings, cache
        key = os.environ.get(settings.key_env, "").strip()
        self._has_key = bool(key)
        self._client = ServerClient(
            settings.url, key, timeout=settings.timeout_seconds, retries=0, connections=settings.concurrency
        )
        self._cap = SpendingCap(settings.max_usd, cache.spent_usd)
        self._not_before = 0.0
        self._has_replied = False

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def __call__(self, call: ModelCall) -> ModelReply:
        """The reply, after as many tries as it takes. Raises Refused for this call, or S1Error to end the run."""
        tries = pauses = 0
        while True:
            try:
                return await self._try(call)
            except RequestFailure as failure:
                self._check_repeatable(failure)
                why = f"HTTP {failure.status}" if failure.status else failure.message
                if failure.retry_after and pauses < MOST_PAUSES:
                    self._postpone_all(failure.retry_after, why)
                    pauses += 1
                    continue
            tries += 1
            if tries >= self.settings.tries:
                if not self._has_replied:
                    raise Interrupted(
                        f"No reply from {self.settings.url}: {why}.",
                        "Check the address and the server, then rerun the command to resume.",
                    )
                raise Refused(f"no reply in {tries} tries: {why}")
            await asyncio.sleep(
                backoff_seconds(tries - 1, first=FIRST_BACKOFF_SECONDS, chance=random.random())
            )

    async def _try(self, call: ModelCall) -> ModelReply:
        """One try, with its worst case reserved and replaced by its real cost.

        A reservation in the cache stays where a kill or the end of the run leaves the cost unknown.
        """
        messages = [{"role": role, "content": text} for role, text in call.messages]
        body: dict[str, Any] = {"model": call.model, "messages": messages, **call.settings}
        if self.settings.stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        size = len(json.dumps(body))  # a token is at least one byte, so this bounds the prompt from above
        most = size + 64, self.settings.max_tokens
        worst = self._usd(*most)
        spent = 0.0
        await self._cap.reserve(worst)
        try:
            await self._wait_for_turn()
            if worst:
                self._cache.reserve(call, worst)
            spent = worst  # until it is known
            began = time.monotonic()
            async with aclosing(self._client.events("/chat/completions", body)) as events:
                reply = await read_reply(events, most)
            if reply.exact:
                spent = self._usd(reply.prompt_tokens, reply.completion_tokens)
            else:
                spent = min(worst, self._usd(reply.prompt_tokens or size, reply.completion_tokens))
            self._has_replied = True
            return replace(reply, usd=spent, seconds=round(time.monotonic() - began, 3))
        except RequestFailure as failure:
            spent = self._spent_on(failure, size, worst)
            if worst:
                self._cache.book(call, failure.message, spent)
            raise
        finally:
            await self._cap.settle(worst, spent)

    def _spent_on(self, failure: RequestFailure, size: int, worst: float) -> float:
        """What a request without a reply cost at most. A server that fell silent may have written a whole reply."""
        if failure.received:
            return min(worst, self._usd(size, failure.received))
        return worst if failure.status is None and failure.sent else 0.0

    def _check_repeatable(self, failure: RequestFailure) -> None:
        """Raises Refused or S1Error for a refusal that another try cannot change."""
        if failure.status is None:
            return
        words = f"HTTP {failure.status}" + (f": {failure.body[:300]}" if failure.body else "")
        if failure.status in FATAL or "insufficient_quota" in failure.body:
            hint = "Fix this, then rerun the command to resume."
            if failure.status == 401 and not self._has_key:
                hint = f"Put the key into the environment variable {self.settings.key_env}."
            raise Interrupted(f"{self.settings.url} refuses: {words}.", hint)
        if "stream_options" in failure.body:
            raise S1Error(
                f"{self.settings.url} refuses: {words}.", "Ask without streaming: --set stream=false."
            )
        if not may_be_repeated(failure.status):
            raise Refused(words)

    def _postpone_all(self, seconds: float, why: str) -> None:
        if seconds > LONGEST_RETRY_AFTER_SECONDS:
            raise Interrupted(
                f"{self.settings.url} asks for a pause of {seconds / 3600:.1f} hours ({why}).",
                "Rerun the command then; stored replies are kept.",
            )
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def _wait_for_turn(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(
                wait + random.uniform(0.0, 0.05)
            )  # so that not all return in the same instant

    def _usd(self, tokens_in: int, tokens_out: int) -> float:
        s = self.settings
        return (tokens_in * s.usd_per_million_in + tokens_out * s.usd_per_million_out) / 1e6
