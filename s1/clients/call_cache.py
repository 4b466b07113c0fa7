"""The journal of model calls: one line for each reply, keyed by the content of the request.

    {"schema": 1, "what": "journal of model calls"}                                          first line
    {"key", "model", "sample", "thinking", "answer", "finish", "prompt_tokens", "completion_tokens",
     "usd", "exact", "seconds"}                                                              a reply
    {"key", "lost": why, "usd"}                                    a call that cost something and gave nothing

A line is written with one append before anything else is asked, so a kill loses only what was in flight, and
a request whose key is here is not asked again. The last of several replies with one key counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from s1.errors import BadInput, S1Error
from s1.jsonl import dump_line, parse_object, whole_lines, write_all
from s1.types import from_json, to_json

SCHEMA = 1
HEAD = {"schema": SCHEMA, "what": "journal of model calls"}
SYNC_SECONDS = 5.0
"""A kill loses nothing that was appended; a power cut loses at most this much."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One call: chat messages (role, content) and what shapes the reply. `sample` tells repeats apart."""

    model: str
    messages: tuple[tuple[str, str], ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0

    @property
    def key(self) -> str:
        """SHA-256 over everything above. The address of the server is no part of it."""
        text = json.dumps(to_json(self), sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What came back: thinking without tags, the answer after it, how it ended, what it cost."""

    thinking: str
    answer: str
    finish: str
    """ "stop", "length" (cut at the limit), or what else the server said, such as "content_filter"."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float = 0.0
    exact: bool = True
    """False where the server counted no tokens and the counts are upper bounds."""
    seconds: float = 0.0


class CallCache:
    """An open journal. One process at a time may hold it; use as a context manager."""

    def __init__(self, path: str | Path) -> None:
        """Opens or creates the file. Raises BadInput when it is no journal, damaged, or in use."""
        self.path = Path(path)
        self.spent_usd = 0.0
        self._places: dict[str, tuple[int, int]] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise BadInput(
                f"{self.path} is in use by another process.", "Wait for it, or name another folder."
            ) from None
        try:
            self._size = self._read()
        except BaseException:
            os.close(self._file)
            raise
        self._synced = time.monotonic()

    def _read(self) -> int:
        end = 0
        for number, offset, line in whole_lines(self.path):
            data = parse_object(line, self.path, number)
            end = offset + len(line)
            if number == 1:
                if data != HEAD:
                    raise BadInput(f"{self.path} is not a journal of model calls.", "Name another file.")
                continue
            key, usd = data.get("key"), data.get("usd")
            if not isinstance(key, str) or not isinstance(usd, (int, float)):
                raise BadInput(
                    f"{self.path}, line {number}: no key or no cost.", "Remove the line or restore it."
                )
            self.spent_usd += usd
            if "lost" not in data:
                self._places[key] = (offset, len(line))
        os.ftruncate(self._file, end)  # a torn last line was in flight
        if not end:
            write_all(self._file, dump_line(HEAD))
            end = len(dump_line(HEAD))
        return end

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> ModelReply | None:
        """The reply with that key. Replies stay on disk until they are asked for."""
        place = self._places.get(key)
        if place is None:
            return None
        data = json.loads(os.pread(self._file, place[1], place[0]))
        kept = {k: v for k, v in data.items() if k not in ("key", "model", "sample")}
        return from_json(ModelReply, kept)

    def append(self, request: ModelCall, reply: ModelReply) -> None:
        """Store a reply. It survives a kill of this process as soon as the call returns."""
        head = {"key": request.key, "model": request.model, "sample": request.sample}
        offset = self._size
        length = self._write({**head, **to_json(reply)})
        self._places[request.key] = (offset, length)
        self.spent_usd += reply.usd

    def book(self, request: ModelCall, why: str, usd: float) -> None:
        """Store what a call cost that gave no usable reply."""
        self._write({"key": request.key, "lost": why, "usd": usd})
        self.spent_usd += usd

    def _write(self, data: Mapping[str, Any]) -> int:
        line = dump_line(data)
        try:
            write_all(self._file, line)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise S1Error(
                f"{self.path} cannot be written: {error.strerror}.",
                "Mend that and run the same command again; what was stored is kept.",
            ) from error
        self._size += len(line)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            os.fsync(self._file)
            self._synced = time.monotonic()
        return len(line)

    def close(self) -> None:
        """Flush to disk and let other processes have the file. Closing twice is allowed."""
        if self._file >= 0:
            os.fsync(self._file)
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> CallCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
