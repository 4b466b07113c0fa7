"""An engine that says what it is told to: for tests, docs and trying a policy without a model.

Its tokens are the UTF-8 bytes of the text, and each special token (`<|name|>`, `<think>`, `</think>`) is
one. It holds to the whole seam: limits, stops, minimums, small chunks, cancellation.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path

from s1.errors import BadInput, EngineFailure
from s1.types import Chunk, Continuation

SPECIAL = re.compile(r"(<\|[a-z_]+\|>|</?think>)")
FIRST_SPECIAL = 256

Answers = Callable[[str], str]
"""From the text of a prefix to the text that the model would go on with, stops included."""


class ScriptedEngine:
    """`script` is a list of continuations, used in turn for each new prefix, or a function of the prefix."""

    def __init__(
        self, script: Sequence[str] | Answers, *, context: int = 100_000, chunk: int = 3, end: str = "<|end|>"
    ) -> None:
        self.name = "scripted"
        self.context = context
        self.eos_texts = (end,)
        self.template: str | None = "<think></think>"
        self.folder: Path | None = None
        self.asked: list[Continuation] = []
        """Every ask so far, for tests."""
        self._chunk = chunk
        self._names: dict[int, str] = {}
        self._queue: Iterator[str] | None = None
        self._answers: Answers | None = None
        if callable(script):
            self._answers = script
        else:
            self._queue = iter(script)

    def encode(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in SPECIAL.split(text):
            if SPECIAL.fullmatch(piece):
                token = FIRST_SPECIAL + zlib.crc32(piece.encode())  # the same on every engine
                self._names[token] = piece
                ids.append(token)
            else:
                ids.extend(piece.encode())
        return tuple(ids)

    def decode(self, ids: Sequence[int]) -> str:
        out, raw = [], bytearray()
        for i in ids:
            if i >= FIRST_SPECIAL:
                out.append(raw.decode(errors="replace") + self._names[i])
                raw.clear()
            else:
                raw.append(i)
        return "".join(out) + raw.decode(errors="replace")

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"<|{m['role']}|>{m['content']}" for m in messages) + "<|assistant|>"

    async def close(self) -> None:
        """Nothing to release."""

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        if len(ask.prefix) + ask.max_tokens > self.context:
            raise BadInput(
                f"{len(ask.prefix)} prompt tokens and {ask.max_tokens} more exceed "
                f"the context of {self.context}.",
                "Lower the limit.",
            )
        self.asked.append(ask)
        if self._answers is not None:
            text = self._answers(self.decode(ask.prefix))
        else:
            assert self._queue is not None
            following = next(self._queue, None)
            if following is None:
                raise EngineFailure("The script has no continuation left.")
            text = following
        ids = self.encode(text)
        taken: list[int] = []
        i, finish, stop = 0, None, None
        while len(taken) < ask.max_tokens and i < len(ids):
            fitting = ask.max_tokens - len(taken)  # a stop counts when all of it came
            at = next(
                (s for s in ask.stops if len(s.ids) <= fitting and ids[i : i + len(s.ids)] == s.ids), None
            )
            if at is None:
                taken.append(ids[i])
                i += 1
            elif len(taken) < ask.min_tokens:  # masked: a model would say something else
                i += len(at.ids)
            else:
                finish, stop = "stop", at
                break
        if finish is None and len(taken) < ask.max_tokens and ask.stops:
            if len(taken) < ask.min_tokens:
                taken += [ord(".")] * (ask.min_tokens - len(taken))
            if len(taken) < ask.max_tokens:  # the script has run out: the turn ends
                finish, stop = "stop", ask.stops[-1]
        for k in range(0, len(taken), self._chunk):
            yield Chunk(tuple(taken[k : k + self._chunk]))
        yield Chunk((), "stop", stop) if finish else Chunk((), "length")


def load(spec: str, *, context: int = 100_000) -> ScriptedEngine:
    """The engine of "scripted:FILE": the file is a JSON list of continuations, stops included, used in turn.

    Raises BadInput for a file that is missing or anything else.
    """
    hint = 'Write a JSON list of texts, for example ["I think.</think>", "Four.<|end|>"].'
    try:
        script = json.loads(Path(spec).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"The script {spec!r} cannot be read: {error.strerror}.", hint) from error
    except ValueError as error:
        raise BadInput(f"The script {spec} is not JSON: {error}.", hint) from error
    if not isinstance(script, list) or not script or not all(isinstance(text, str) for text in script):
        raise BadInput(f"The script {spec} is not a list of texts.", hint)
    return ScriptedEngine(script, context=context)
