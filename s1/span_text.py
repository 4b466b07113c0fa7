"""The text of a request while it is decoded, piece by piece, for a terminal or an event stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from s1.types import Owner, Phase


class SpanPiece(NamedTuple):
    """New text of one phase and owner."""

    text: str
    phase: Phase
    by: Owner


class SpanText:
    """Reads the spans of a `Forcing` that grow, and gives the text that is new; the prompt is left out."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []  # every token so far; the prompt is context for decoding
        self._window, self._done = 0, 0  # the text of _ids[:_done] is given; decoding begins at _window
        self._span, self._taken = 0, 0

    def new(
        self, spans: Sequence[tuple[Phase, Owner, Sequence[int]]], *, ended: bool = False
    ) -> Iterator[SpanPiece]:
        """What came since the last call. An incomplete character waits for its rest unless the span has `ended`."""
        while self._span < len(spans):
            phase, by, ids = spans[self._span]
            last = self._span == len(spans) - 1
            self._ids.extend(ids[self._taken :])
            self._taken = len(ids)
            if phase == "prompt":
                self._window, self._done = max(0, len(self._ids) - 4), len(self._ids)
            elif text := self._new_text(final=ended or not last):
                yield SpanPiece(text, phase, by)
            if last:
                return
            self._span, self._taken = self._span + 1, 0

    def _new_text(self, *, final: bool) -> str:
        """The text of the new tokens. Only a window is decoded; the tokens before the new ones give context."""
        if self._done == len(self._ids):
            return ""
        before = self._decode(self._ids[self._window : self._done])
        whole = self._decode(self._ids[self._window :])
        if whole.endswith("\ufffd") and not final:
            return ""
        self._window, self._done = self._done, len(self._ids)
        return whole[len(before) :]
