"""Requests while they run: slots, time limits, clients that leave, and the table in which a turn finds its request."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from fastapi import Request

from s1.budget import Forcing
from s1.drive import drive
from s1.errors import BadConfig, EngineFailure, S1Error
from s1.serve.body import Served
from s1.serve.fair_slots import FairSlots, Ticket
from s1.serve.server_metrics import ServerMetrics
from s1.span_text import SpanPiece, SpanText
from s1.types import Continuation, Engine, Generation

PAUSE, MOST_PAUSE = 0.0125, 0.25
"""Seconds for each live request between two events of a stream: an event costs about 0.15 milliseconds, so that many
streams of single tokens would take the processor from the model. The end of a choice is not waited for."""

MOST_SCHEMAS = 256


class Busy(S1Error):
    """Too many requests wait. `seconds`: when to try again."""

    def __init__(self, waiting: int, seconds: int) -> None:
        super().__init__(f"{waiting} requests already wait for this server.", "Try again later.")
        self.seconds = seconds


class TimedOut(S1Error):
    """A request took longer than the server allows."""


class ClientLeft(Exception):
    """The client has closed its connection; nobody reads a reply."""


@dataclass
class LiveRequest:
    """One request with its choices. `changed` is set after new tokens, `ended` after a choice's last."""

    id: str
    forcings: list[Forcing]
    generations: list[Generation | None]
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    error: BaseException | None = None
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    pause: Callable[[], float] = lambda: 0.0
    """Seconds between two looks at the new tokens."""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def thinks(self) -> bool:
        """Whether a choice is still thinking, so that it can be turned."""
        pairs = zip(self.forcings, self.generations, strict=True)
        return any(f.phase == "thinking" and g is None for f, g in pairs)

    async def started(self) -> None:
        """Wait for the first token, or for the end. Raises what went wrong before it."""
        while self.error is None and not any(
            generation is not None or any(by == "model" for _, by, _ in forcing.spans)
            for forcing, generation in zip(self.forcings, self.generations, strict=True)
        ):
            await self.changed.wait()
            self.changed.clear()
        self.changed.set()  # the first pieces are still to be read
        failed = next((g.error for g in self.generations if g is not None and g.error is not None), None)
        if self.error is not None or failed is not None:
            raise self.error or EngineFailure(str(failed))

    async def pieces(self) -> AsyncGenerator[tuple[int, SpanPiece | Generation], None]:
        """The new text of every choice as it comes, and each generation when it is done. Raises what went wrong."""
        texts = [SpanText(f.encoded.decode) for f in self.forcings]
        left = set(range(len(self.forcings)))
        while left:
            await self.changed.wait()
            self.changed.clear()
            if self.error is not None:
                raise self.error
            for choice in sorted(left):
                generation = self.generations[choice]
                for piece in texts[choice].new(self.forcings[choice].spans, ended=generation is not None):
                    yield choice, piece
                if generation is not None:
                    yield choice, generation
                    left.discard(choice)
            if left:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.pause()):
                        await self.ended.wait()
                self.ended.clear()

    async def done(self) -> list[Generation]:
        """All generations, in order of the choices."""
        while None in self.generations and self.error is None:
            await self.changed.wait()
            self.changed.clear()
        if self.error is not None:
            raise self.error
        return [g for g in self.generations if g is not None]


class Desk:
    """All live requests, and the slots in which their choices decode."""

    def __init__(self, served: Served, metrics: ServerMetrics) -> None:
        self.served, self.metrics = served, metrics
        self.live: dict[str, LiveRequest] = {}
        self.slots = FairSlots(served.settings.concurrent, served.settings.waiting)
        self._schemas = set[str]()  # those that the engine has taken
        self._seconds = 1.0  # about how long a choice decodes

    @asynccontextmanager
    async def begin(
        self, prefix: str, forcings: list[Forcing], request: Request, user: str | None
    ) -> AsyncIterator[LiveRequest]:
        """Run the choices of a request while the `async with` lasts. Raises Busy when too many wait.

        Clients that take turns differ in address or in `user`.
        """
        settings = self.served.settings
        client = (request.client and request.client.host, user)
        tickets = self.slots.ask(client, len(forcings))
        if tickets is None:
            rounds = (self.slots.waiting + 1) / settings.concurrent
            raise Busy(self.slots.waiting, max(1, min(60, math.ceil(rounds * self._seconds))))
        # The id is a secret: whoever knows it may turn the request.
        live = LiveRequest(f"{prefix}-{secrets.token_hex(16)}", forcings, [None] * len(forcings))
        live.pause = lambda: min(MOST_PAUSE, PAUSE * len(self.live))
        self.live[live.id] = live
        deadline = asyncio.get_running_loop().time() + settings.request_seconds
        for choice, ticket in enumerate(tickets):
            task = asyncio.create_task(self._decode(live, choice, ticket, deadline))
            task.add_done_callback(lambda _, ticket=ticket: self.slots.leave(client, ticket))  # type: ignore[misc]
            live.tasks.append(task)
        live.tasks.append(asyncio.create_task(_watch(request, live)))
        try:
            yield live
        finally:
            del self.live[live.id]
            for task in live.tasks:
                task.cancel()
            await asyncio.gather(*live.tasks, return_exceptions=True)

    async def _decode(self, live: LiveRequest, choice: int, ticket: Ticket, deadline: float) -> None:
        forcing = live.forcings[choice]
        engine: Engine = self.served.engine
        arrived = time.perf_counter()

        def watch(forcing: Forcing) -> None:
            live.changed.set()

        try:
            async with asyncio.timeout_at(deadline):
                await ticket
                queued = time.perf_counter() - arrived
                if choice == 0:
                    await self._check_schema(forcing)
                with self.metrics.running.track_inprogress():
                    generation = await drive(forcing, engine, sample=choice, watch=watch)
            self._seconds += (generation.seconds - self._seconds) / 8
            self.metrics.count(generation, queued)
            live.generations[choice] = generation
        except TimeoutError:
            seconds = self.served.settings.request_seconds
            live.error = TimedOut(
                f"The request took more than {seconds:g} seconds.", "Ask for less thinking."
            )
        except Exception as error:
            live.error = error
        finally:
            live.changed.set()
            live.ended.set()

    async def _check_schema(self, forcing: Forcing) -> None:
        """Ask for one token under the answer's schema, so that a wrong one is refused before the thinking."""
        encoded = forcing.encoded
        schema = encoded.json_schema
        if schema is None or schema in self._schemas:
            return
        one = Continuation(encoded.prompt, 1, encoded.answer_stops, json_schema=schema)
        try:
            async for _ in self.served.engine.stream(one):
                pass
        except EngineFailure as error:
            if getattr(error, "status", 400) not in (400, 422):
                raise
            raise BadConfig(f"The engine refuses the JSON schema: {error.message}", "Correct it.") from error
        if len(self._schemas) >= MOST_SCHEMAS:
            self._schemas.clear()
        self._schemas.add(schema)


async def _watch(request: Request, live: LiveRequest) -> None:
    """End the request at once when its client leaves."""
    while (await request.receive())["type"] != "http.disconnect":
        continue
    if live.error is None:
        live.error = ClientLeft()
    for task in live.tasks[:-1]:
        task.cancel()
    live.changed.set()
    live.ended.set()
