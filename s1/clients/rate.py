"""Requests and tokens a minute: no try is sent before both limits allow it.

Starts are spaced evenly, 60 s / requests apart, since many servers count over less than a minute. Tokens are
counted over the last 60 seconds by the time of each start: a try counts with the bound given at its start
until it is known what it used. One that is larger than the limit goes alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

MINUTE_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Try:
    """A try that was let through: when it started, and how many tokens it counts with."""

    at: float
    tokens: int


class Rate:
    """The limits of one server. Everyone waits in the order in which they came."""

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        self._requests, self._tokens = requests, tokens
        self._minute = MINUTE_SECONDS
        self._tries: deque[Try] = deque()
        self._used = 0
        self._queue = asyncio.Lock()
        self._settled = asyncio.Event()

    async def enter(self, tokens: int) -> Try:
        """Waits until a try that may use so many tokens may start."""
        if self._requests is None and self._tokens is None:
            return Try(0.0, 0)
        clock = asyncio.get_running_loop().time
        async with self._queue:
            while (wait := self._wait(clock(), tokens)) > 0:
                self._settled.clear()
                try:
                    async with asyncio.timeout(max(wait, 0.001)):  # less may round to no time at all
                        await self._settled.wait()
                except TimeoutError:
                    pass  # time alone has made room
            entered = Try(clock(), tokens)
            self._tries.append(entered)
            self._used += tokens
        return entered

    def settle(self, entered: Try, tokens: int) -> None:
        """Counts what a try really used, if it still counts."""
        if entered in self._tries:
            self._used += tokens - entered.tokens
            entered.tokens = tokens
            self._settled.set()

    def leave(self, entered: Try) -> None:
        """Takes back a try that was not sent."""
        if entered in self._tries:
            self._tries.remove(entered)
            self._used -= entered.tokens
            self._settled.set()

    def _wait(self, now: float, tokens: int) -> float:
        """Seconds until the next try may start as things stand; 0 when it may."""
        while self._tries and self._tries[0].at + self._minute <= now:
            self._used -= self._tries.popleft().tokens
        wait = 0.0
        if self._requests is not None and self._tries:
            wait = self._tries[-1].at + self._minute / self._requests - now
        if self._tokens is not None and self._tries and self._used + tokens > self._tokens:
            wait = max(wait, self._tries[0].at + self._minute - now)
        return wait
