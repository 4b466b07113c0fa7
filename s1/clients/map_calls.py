"""Many model calls at once, through a call cache: what it holds is not asked again.

An `Answerer` takes a call and gives the reply, or raises `Refused` for this call alone. Any S1Error ends the run;
replies that came before it are in the cache. `chat` and `data.attempts` make answerers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import NamedTuple, Protocol, TypeVar

from s1.clients.call_cache import CallCache, ModelCall, ModelReply
from s1.errors import BadConfig, first_error

Answerer = Callable[[ModelCall], Awaitable[ModelReply]]
READINGS = 3
"""How often a judge or classifier is asked when its last line cannot be read."""
T = TypeVar("T")


class Caller(Protocol):
    """A model to ask: `ApiSettings` for a server, `EngineCaller` for an engine of this project."""

    @property
    def name(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    @property
    def temperature(self) -> float | None: ...

    def request(self, text: str, sample: int = 0, *, system: str | None = None) -> ModelCall:
        """The call for one user message."""
        ...

    def connect(self, cache: CallCache) -> AbstractAsyncContextManager[Answerer]:
        """The model, ready to answer; costs of failed tries are booked in `cache`."""
        ...


def check_samples(caller: Caller, samples: int) -> None:
    """Raises BadConfig for a number of samples below 1, and for several that would all be equal."""
    if samples < 1:
        raise BadConfig(f"samples is {samples}.", "Ask for at least 1.")
    if samples > 1 and caller.temperature == 0:
        raise BadConfig(
            f"{caller.name}: several samples at temperature 0 would be equal.", "Raise the temperature."
        )


class Refused(Exception):
    """This call gets no reply; the text says why, as it appears among the rejected rows."""


class Progress(NamedTuple):
    """Calls done of how many, tokens generated in this run, dollars booked in the whole cache."""

    done: int
    total: int
    tokens: int
    usd: float


Watch = Callable[[Progress], None]


def no_watch(progress: Progress) -> None:
    """Shows nothing."""


async def map_calls(
    calls: Iterable[ModelCall], caller: Caller, cache: CallCache, *, progress: Watch = no_watch
) -> dict[str, str]:
    """Ask what the cache does not hold yet, each key once; store each reply as it comes.

    Returns why calls got no reply, by key. Raises S1Error when the run cannot continue.
    """
    wanted = {call.key: call for call in calls}
    missing = [call for key, call in wanted.items() if key not in cache]
    refused: dict[str, str] = {}
    done, tokens = len(wanted) - len(missing), 0

    async def work(queue: Iterator[ModelCall], answer: Answerer) -> None:
        nonlocal done, tokens
        for call in queue:
            try:
                reply = await answer(call)
            except Refused as why:
                refused[call.key] = str(why)
            else:
                cache.append(call, reply)
                tokens += reply.completion_tokens
            done += 1
            progress(Progress(done, len(wanted), tokens, cache.booked_usd))

    queue = iter(missing)
    async with caller.connect(cache) as answer:
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(min(caller.concurrency, len(missing))):
                    tasks.create_task(work(queue, answer))
        except BaseExceptionGroup as group:
            raise first_error(group) from None
    return refused


async def map_readings(
    calls: Mapping[str, ModelCall],
    read: Callable[[str], T | None],
    caller: Caller,
    cache: CallCache,
    *,
    progress: Watch = no_watch,
) -> dict[str, T]:
    """What `read` makes of the answer to each call, by the same names.

    An answer for which `read` gives None is asked again as another sample, up to READINGS times in all. Names without
    a readable answer are left out.
    """
    readings: dict[str, T] = {}
    for sample in range(READINGS):
        open_calls = {
            name: replace(call, sample=sample) for name, call in calls.items() if name not in readings
        }
        await map_calls(open_calls.values(), caller, cache, progress=progress)
        for name, call in open_calls.items():
            reply = cache.get(call.key)
            value = read(reply.answer) if reply else None
            if value is not None:
                readings[name] = value
    return readings
