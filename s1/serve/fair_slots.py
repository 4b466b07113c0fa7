"""The order in which requests decode: clients take turns, and each has its share of the queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable

Ticket = asyncio.Future[None]
"""One place in the queue; it is done when its slot is free."""


class FairSlots:
    """`slots` choices decode at once, and at most `most_waiting` wait.

    A free slot goes to the next client in turn, and within a client to the first that came. A client may add to the
    queue only as many as fit in the part that is free: alone it can fill half of the queue, beside one other a third,
    and there is always room for one that comes new.
    """

    def __init__(self, slots: int, most_waiting: int) -> None:
        self._slots, self._most_waiting = slots, most_waiting
        self._running: set[Ticket] = set()
        self._queues: dict[Hashable, deque[Ticket]] = {}  # in the order of their turns

    @property
    def waiting(self) -> int:
        return sum(map(len, self._queues.values()))

    def ask(self, client: Hashable, count: int) -> list[Ticket] | None:
        """Tickets for `count` choices, each to be left at its end; None where the queue has no room for them."""
        now = max(0, self._slots - len(self._running))
        own = len(self._queues.get(client, ()))
        later = max(0, count - now)
        if later and own + later > self._most_waiting - self.waiting:
            return None
        tickets = [asyncio.get_running_loop().create_future() for _ in range(count)]
        self._queues.setdefault(client, deque()).extend(tickets)
        self._fill()
        return tickets

    def leave(self, client: Hashable, ticket: Ticket) -> None:
        """The choice has ended, or waits no longer."""
        if ticket in self._running:
            self._running.discard(ticket)
            self._fill()
        elif ticket in (queue := self._queues.get(client, deque())):
            queue.remove(ticket)
            if not queue:
                del self._queues[client]

    def _fill(self) -> None:
        while self._queues and len(self._running) < self._slots:
            client = next(iter(self._queues))
            queue = self._queues.pop(client)
            ticket = queue.popleft()
            if queue:
                self._queues[client] = queue  # behind the others
            if not ticket.cancelled():
                self._running.add(ticket)
                ticket.set_result(None)
