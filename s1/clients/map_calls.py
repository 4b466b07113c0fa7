"""Many model calls at once, through a journal: what it holds is not asked again.

An `Answerer` takes a request and gives the reply, or raises `Refused` for this request alone. Any S1Error
ends the run; what had come by then is in the journal. `api` and `attempt` make answerers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
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
        """The request for one user message."""
        ...

    def answering(self, journal: CallCache) -> AbstractAsyncContextManager[Answerer]:
        """The model, open."""
        ...


def check_samples(caller: Caller, samples: int) -> None:
    """Raises BadConfig for a number of samples that cannot be had, or that would all be equal."""
    if samples < 1:
        raise BadConfig(f"samples is {samples}.", "Ask for at least 1.")
    if samples > 1 and caller.temperature == 0:
        raise BadConfig(
            f"{caller.name}: several samples at temperature 0 would be equal.", "Raise the temperature."
        )


class Refused(Exception):
    """This request gets no reply; its text says why, in words for the ledger."""


class Progress(NamedTuple):
    """Requests done of how many, tokens that came in this run, dollars of the whole journal."""

    done: int
    total: int
    tokens: int
    usd: float


Watch = Callable[[Progress], None]


async def ask_all(
    requests: Iterable[ModelCall],
    answer: Answerer,
    journal: CallCache,
    *,
    concurrency: int = 64,
    progress: Watch = lambda p: None,
) -> dict[str, str]:
    """Ask what the journal does not hold yet, each key once; append each reply as it comes.

    Returns why requests got no reply, by key. Raises S1Error when the run cannot go on.
    """
    import asyncio

    if concurrency < 1:
        raise BadConfig(f"concurrency is {concurrency}.", "Use at least 1.")
    wanted = {r.key: r for r in requests}
    missing = [r for key, r in wanted.items() if key not in journal]
    refused: dict[str, str] = {}
    done, tokens = len(wanted) - len(missing), 0

    async def work(queue: Iterator[ModelCall]) -> None:
        nonlocal done, tokens
        for request in queue:
            try:
                reply = await answer(request)
            except Refused as why:
                refused[request.key] = str(why)
            else:
                journal.append(request, reply)
                tokens += reply.completion_tokens
            done += 1
            progress(Progress(done, len(wanted), tokens, journal.spent_usd))

    queue = iter(missing)
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(min(concurrency, len(missing))):
                tasks.create_task(work(queue))
    except BaseExceptionGroup as group:
        raise first_error(group) from None
    return refused


async def read_all(
    requests: Mapping[str, ModelCall],
    read: Callable[[str], T | None],
    answer: Answerer,
    journal: CallCache,
    *,
    concurrency: int = 64,
    progress: Watch = lambda p: None,
) -> dict[str, T]:
    """What `read` makes of the reply to each request, by the caller's key.

    A reply that `read` gives None for is asked again as another sample, up to READINGS times in all; then
    the key is left out, as it is when the request was refused.
    """
    readings: dict[str, T] = {}
    for sample in range(READINGS):
        asked = {
            name: ModelCall(r.model, r.messages, r.settings, sample)
            for name, r in requests.items()
            if name not in readings
        }
        await ask_all(asked.values(), answer, journal, concurrency=concurrency, progress=progress)
        for name, request in asked.items():
            reply = journal.get(request.key)
            value = read(reply.answer) if reply else None
            if value is not None:
                readings[name] = value
    return readings
