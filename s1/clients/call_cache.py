"""The cache of model calls: one line for each reply, keyed by the content of the request.

    {"schema": 1, "what": "journal of model calls"}                                          first line
    {"key", "model", "sample", "thinking", "answer", "finish", "prompt_tokens", "completion_tokens",
     "usd", "exact", "seconds"}                                                              a reply
    {"key", "reserved": usd}                                       a call that is about to be sent, at its worst price
    {"key", "lost": why, "usd"}                                    a call that gave no reply, and what it cost

A reply is stored before the next request is sent, so a kill loses only what was in flight, and a request
whose key is stored is never sent again. The last of several replies with one key counts. A reply or a lost call
names the reservation that its cost replaces ("settles"); one that a kill left open counts as spent for ever.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s1.errors import BadInput
from s1.jsonl import AppendLog, parse_object
from s1.types import from_json, to_json

SCHEMA = 1
HEAD = {"schema": SCHEMA, "what": "journal of model calls"}
BESIDE_REPLY = ("key", "model", "sample", "settles")
"""Fields of a reply's line that are not part of the reply."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call: chat messages (role, content) and the settings of the reply. `sample` tells repeats apart."""

    model: str
    messages: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0

    @property
    def key(self) -> str:
        """SHA-256 over all fields. The address of the server is not part of it."""
        text = json.dumps(to_json(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What came back: thinking without tags, the answer after it, how it ended, what it cost."""

    thinking: str
    answer: str
    finish: str
    """ "stop", "length" (cut at the limit), or another reason of the server, such as "content_filter"."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    exact: bool = True
    """False where the server reported no token counts and these are upper bounds."""
    seconds: float = 0.0


class CallCache(AbstractContextManager["CallCache"]):
    """An open cache. One process at a time may hold it; use as a context manager."""

    def __init__(self, path: str | Path) -> None:
        """Open or create the file. Raises BadInput when it is something else, damaged, or in use."""
        self.path = Path(path)
        self._spent = 0.0
        self._in_flight: dict[str, float] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._log: AppendLog[str] = AppendLog(self.path)
        self._log.load(self._key_of)
        if self._log.is_empty:
            self._log.append(None, HEAD)

    def _key_of(self, number: int, line: bytes) -> str | None:
        data = parse_object(line, self.path, number)
        if number == 1:
            if data != HEAD:
                raise BadInput(f"{self.path} is not a journal of model calls.", "Name another file.")
            return None
        key, settles = data.get("key"), data.get("settles", 0.0)
        usd = data.get("reserved", data.get("usd"))
        if not (isinstance(key, str) and isinstance(usd, int | float) and isinstance(settles, int | float)):
            raise BadInput(
                f"{self.path}, line {number}: the key or the cost is missing.",
                "Remove the line or restore it.",
            )
        self._spent += max(0.0, usd) - settles  # an older file may hold a negative cost, as a server gave it
        return None if "lost" in data or "reserved" in data else key

    @property
    def spent_usd(self) -> float:
        """The cost of all calls in the file; those that were not settled count at their worst price."""
        return max(0.0, round(self._spent, 12))

    @property
    def booked_usd(self) -> float:
        """`spent_usd` without what calls of this process have reserved and not settled yet."""
        return max(0.0, round(self._spent - sum(self._in_flight.values()), 12))

    def __contains__(self, key: str) -> bool:
        return key in self._log

    def __len__(self) -> int:
        return len(self._log)

    def get(self, key: str) -> ModelReply | None:
        """The reply stored under this key, read from disk."""
        if key not in self._log:
            return None
        data = json.loads(self._log.line(key))
        return from_json(ModelReply, {k: v for k, v in data.items() if k not in BESIDE_REPLY})

    def reserve(self, request: ModelCall, usd: float) -> None:
        """Count the worst price of a call before it is sent. `append` or `book` replaces it by the real cost."""
        self._log.append(None, {"key": request.key, "reserved": usd})
        self._spent += usd
        self._in_flight[request.key] = usd

    def append(self, request: ModelCall, reply: ModelReply) -> None:
        """Store a reply. It survives a kill of this process as soon as the call returns."""
        head = {"key": request.key, "model": request.model, "sample": request.sample}
        self._settle(request.key, {**head, **to_json(reply)}, reply.usd, is_reply=True)

    def book(self, request: ModelCall, why: str, usd: float) -> None:
        """Store the cost of a call that gave no usable reply."""
        self._settle(request.key, {"key": request.key, "lost": why, "usd": usd}, usd, is_reply=False)

    def _settle(self, key: str, line: dict[str, Any], usd: float, *, is_reply: bool) -> None:
        reserved = self._in_flight.get(key, 0.0)
        self._log.append(key if is_reply else None, {**line, "settles": reserved} if reserved else line)
        self._spent += usd - reserved
        self._in_flight.pop(key, None)

    def close(self) -> None:
        """Flush to disk and let other processes open the file. Closing twice is allowed."""
        self._log.close()

    def __exit__(self, *error: object) -> None:
        self.close()
