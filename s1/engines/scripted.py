"""An engine that answers from a script: for tests, docs, and trying a policy without a model.

Its tokens are the UTF-8 bytes of the text; each special token (`<|name|>`, `<think>`, `</think>`) is one
token. It follows all of the `Engine` protocol: limits, stops, minimums, small chunks, cancellation.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from s1.engines.requests import check_request
from s1.errors import BadInput, EngineFailure
from s1.terminal import valid_text
from s1.types import Chunk, Continuation

SPECIAL = re.compile(r"(<\|[a-z_]+\|>|</?think>)")
FIRST_SPECIAL = 256


class ScriptedEngine:
    """An engine that answers from `script`.

    script: a list of continuations, used in turn, or a function from the text of a prefix to what the model
    would write next. Stops are part of the text. chunk: most tokens per chunk. end: the end-of-turn token.
    """

    def __init__(
        self,
        script: Sequence[str] | Callable[[str], str],
        *,
        context: int = 100_000,
        chunk: int = 3,
        end: str = "<|end|>",
    ) -> None:
        self.name = "scripted"
        self.context = context
        self.eos_texts = (end,)
        self.template: str | None = "<think></think>"
        self.folder: Path | None = None
        self.features = frozenset[str]()
        self.asked: list[Continuation] = []
        """Every request so far, for tests."""
        self._chunk = chunk
        self._names: dict[int, str] = {}
        self.script: Iterator[str] | Callable[[str], str] = script if callable(script) else iter(script)

    def encode(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for piece in SPECIAL.split(text):
            if SPECIAL.fullmatch(piece):
                token = FIRST_SPECIAL + zlib.crc32(piece.encode())  # the same in every process
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

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        return "".join(f"<|{m['role']}|>{m['content']}" for m in messages) + "<|assistant|>"

    async def close(self) -> None:
        """Nothing to release."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        check_request(request, context=self.context, vocab_size=None)
        self.asked.append(request)
        ids = self.encode(self._next_text(request))
        taken: list[int] = []
        i, finish, stop = 0, None, None
        while len(taken) < request.max_tokens and i < len(ids):
            room = request.max_tokens - len(taken)  # a stop counts only when all of it fits
            found = next(
                (s for s in request.stops if len(s.ids) <= room and ids[i : i + len(s.ids)] == s.ids), None
            )
            if found is None:
                taken.append(ids[i])
                i += 1
            elif len(taken) < request.min_tokens:  # masked: a model would draw something else
                i += len(found.ids)
            else:
                finish, stop = "stop", found
                break
        if finish is None and len(taken) < request.max_tokens and request.stops:
            taken += [ord(".")] * (request.min_tokens - len(taken))
            if len(taken) < request.max_tokens:  # the script has run out: the turn ends
                finish, stop = "stop", request.stops[-1]
        for k in range(0, len(taken), self._chunk):
            yield Chunk(tuple(taken[k : k + self._chunk]))
        yield Chunk((), "stop", stop) if finish else Chunk((), "length")

    def _next_text(self, request: Continuation) -> str:
        if not isinstance(self.script, Iterator):
            return self.script(self.decode(request.prefix))
        try:
            return next(self.script)
        except StopIteration:
            raise EngineFailure("The script has no continuation left.") from None


def load(spec: str, *, context: int = 100_000) -> ScriptedEngine:
    """The engine of "scripted:FILE": the file is a JSON list of continuations, stops included, used in turn.

    Raises BadInput for a file that is missing or holds something else.
    """
    hint = 'Write a JSON list of texts, for example ["I think.</think>", "Four.<|end|>"].'
    try:
        script = json.loads(Path(spec).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"The script {spec!r} cannot be read: {error}.", hint) from error
    if not isinstance(script, list) or not script or not all(isinstance(text, str) for text in script):
        raise BadInput(f"The script {spec} is not a list of texts.", hint)
    for number, text in enumerate(script, 1):
        if valid_text(text) != text:
            raise BadInput(
                f"The script {spec}, text {number}: not valid UTF-8 (a lone surrogate).", "Correct this text."
            )
    return ScriptedEngine(script, context=context)
