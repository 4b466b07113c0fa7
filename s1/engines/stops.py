"""Where a continuation stops, for every engine.

An engine feeds the ids that a model produced. The matcher returns the ids that are safe to pass on and, at the
end, the stop that ended the continuation.

    ids in -> [ held back: may begin a stop, or half a character ] -> ids out

A stop that is one added token of the tokenizer (`<|im_end|>`) is matched by id only: the same characters
spelled with other tokens are not that token. Every other stop is matched by its ids and by its text, byte by
byte, because a model may split the same characters into other tokens than the tokenizer does.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

from s1.errors import BadInput
from s1.formats import encode_after
from s1.types import Stop


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What stop matching must know about a tokenizer."""

    bytes_of: Callable[[int], bytes]
    """UTF-8 bytes of one id. The bytes of a sequence are the bytes of its ids, joined."""
    encode: Callable[[str], Sequence[int]]
    """Ids of a text that follows others, none added."""
    added: frozenset[int] = frozenset()
    """Ids of added tokens, special ones included, which no other tokens can spell."""


class Fed(NamedTuple):
    """Ids that may be passed on, and the stop that ended the continuation (None while it continues)."""

    ids: tuple[int, ...]
    stop: Stop | None


@dataclass(frozen=True, slots=True, eq=False)
class StopPlan:
    """Stops prepared for matching by `plan_stops`. One plan serves many continuations."""

    by_id: dict[int, Stop]
    by_text: tuple[tuple[bytes, Stop], ...]
    by_ids: tuple[Stop, ...]
    beginnings: dict[int, tuple[bytes, ...]]
    """Last byte -> proper prefixes of stop texts that end in it, longest first."""
    inert: dict[int, bool] = field(default_factory=dict)
    """Id -> whether it can pass when nothing is held back. Filled as ids are seen."""

    @property
    def longest(self) -> int:
        """Most tokens that a stop and a half character before it take."""
        return 3 + max((len(text) for text, _ in self.by_text), default=1)

    @property
    def by_id_alone(self) -> bool:
        """True when each single id decides, so that no `StopMatcher` is needed."""
        return not self.by_text and not self.by_ids


def plan_stops(stops: Sequence[Stop], vocabulary: Vocabulary) -> StopPlan:
    """The plan for `stops`. Raises BadInput for a stop without text."""
    by_id: dict[int, Stop] = {}
    by_text: list[tuple[bytes, Stop]] = []
    by_ids: list[Stop] = []
    beginnings: dict[int, set[bytes]] = {}
    for stop in stops:
        if not stop.text:
            raise BadInput("A stop has no text.", "Give each stop the string that ends the continuation.")
        if len(stop.ids) == 1:
            by_id.setdefault(stop.ids[0], stop)
            if stop.ids[0] in vocabulary.added:
                continue
        elif stop.ids:
            by_ids.append(stop)
        text = stop.text.encode()
        by_text.append((text, stop))
        for end in range(1, len(text)):
            beginnings.setdefault(text[end - 1], set()).add(text[:end])
    longest_first = {last: tuple(sorted(found, key=len, reverse=True)) for last, found in beginnings.items()}
    return StopPlan(by_id, tuple(by_text), tuple(by_ids), longest_first)


class StopMatcher:
    """The stops of one continuation. How the ids are split into calls of `feed` does not change the result.

    A stop counts if it begins after the first `min_tokens` ids. At an earlier one the matcher drops its ids and sets
    `early`; the engine then draws again from there (`suppress_early_stops`). Of several stops that the same id
    completes, the first to begin wins, then the longest.
    """

    def __init__(self, plan: StopPlan, vocabulary: Vocabulary, *, min_tokens: int = 0) -> None:
        self._plan, self._vocabulary, self._min_tokens = plan, vocabulary, min_tokens
        self._released = 0
        self._held: list[int] = []
        self._context = 0  # how many of them were passed on before others after them were dropped
        self._passed: list[int] = []  # what was passed on before the minimum
        self._starts: list[int] = []  # byte offset of each held id in _text
        self._text = b""
        self.early: int | None = None
        """The id that was drawn where a stop began too early, which was dropped with what followed it."""

    @property
    def held(self) -> tuple[int, ...]:
        """The ids held back."""
        return tuple(self._held[self._context :])

    def feed(self, ids: Sequence[int]) -> Fed:
        """Take more ids. After a stop the rest of `ids` is ignored; only after an early one may it be fed again."""
        out: list[int] = []
        for token in ids:
            if not self._held and self._is_inert(token):
                out.append(token)
                if self._released < self._min_tokens:
                    self._passed.append(token)
                self._released += 1
                continue
            kept, stop = self._take(token)
            out.extend(kept)
            if stop is not None:
                return Fed(tuple(out), stop)
        return Fed(tuple(out), None)

    def flush(self) -> tuple[int, ...]:
        """The ids held back, for a continuation that ended without a stop."""
        return self._release(len(self._held))

    def _is_inert(self, token: int) -> bool:
        plan = self._plan
        known = plan.inert.get(token)
        if known is None:
            text = self._vocabulary.bytes_of(token)
            known = plan.inert[token] = (
                token not in plan.by_id
                and all(token != stop.ids[0] for stop in plan.by_ids)
                and not any(stop in text for stop, _ in plan.by_text)
                and not any(text.endswith(b) for b in plan.beginnings.get(text[-1] if text else -1, ()))
                and not _unfinished(text)
            )
        return known

    def _take(self, token: int) -> Fed:
        begin = len(self._text)
        self._held.append(token)
        self._starts.append(begin)
        self._text += self._vocabulary.bytes_of(token)
        found = self._first_stop(token, begin)
        if found is not None:
            at, stop = found
            if bisect_right(self._starts, at) <= self._min_tokens - self._released:
                return Fed(self._drop_from(at), stop)
            return Fed(self._kept_before(at), stop)
        return Fed(self._release(self._first_needed()), None)

    def _first_stop(self, token: int, begin: int) -> tuple[int, Stop] | None:
        """The winning stop that ends in the newest id, with the byte where it begins; an early one if no other."""
        allowed = max(0, self._min_tokens - self._released)
        return self._stop_from(allowed, token, begin) or (
            self._stop_from(0, token, begin) if allowed else None
        )

    def _stop_from(self, allowed: int, token: int, begin: int) -> tuple[int, Stop] | None:
        """The winning stop that begins in the held id number `allowed` or later."""
        plan, held, starts = self._plan, self._held, self._starts
        if allowed >= len(held):
            return None
        found: list[tuple[int, int, Stop]] = []
        single = plan.by_id.get(token)
        if single is not None:
            found.append((begin, -len(single.text), single))
        for stop in plan.by_ids:
            first = len(held) - len(stop.ids)
            if first >= allowed and tuple(held[first:]) == stop.ids:
                found.append((starts[first], -len(stop.text), stop))
        for text, stop in plan.by_text:
            at = self._text.find(text, max(starts[allowed], begin - len(text) + 1))
            if at >= 0:
                found.append((at, -len(stop.text), stop))
        if not found:
            return None
        at, _, stop = min(found, key=lambda each: each[:2])
        return at, stop

    def _drop_from(self, at: int) -> tuple[int, ...]:
        """Drop the ids from the one that holds byte `at` on, or from the first of its character, but none that was
        passed on. Those before it that may now begin a stop are held again. Returns the others."""
        first = bisect_right(self._starts, at) - 1
        while first > 0 and _is_inside_character(self._text, self._starts[first]):
            first -= 1
        first = max(first, self._context)
        self.early = self._held[first]
        again = self._passed[-self._plan.longest :]
        self._held = [*again, *self._held[self._context : first]]
        self._context, self._released = len(again), len(self._passed) - len(again)
        texts = [self._vocabulary.bytes_of(token) for token in self._held]
        self._starts = [sum(map(len, texts[:n])) for n in range(len(texts))]
        self._text = b"".join(texts)
        return self._release(self._first_needed())

    def _kept_before(self, at: int) -> tuple[int, ...]:
        """Ids for the held text before byte `at`: whole ids, then the first part of a cut one, encoded again.

        Never more ids than the model produced, so that a limit in tokens still holds: if the first part takes
        more ids than were cut, it is shortened.
        """
        ends = [*self._starts[1:], len(self._text)]
        whole = sum(1 for end in ends if end <= at)
        while 0 < whole < len(self._held) and _is_inside_character(self._text, self._starts[whole]):
            whole -= 1
        kept = list(self._held[:whole])
        if whole < len(self._held):
            rest = self._text[self._starts[whole] : at].decode(errors="ignore")
            kept += list(self._vocabulary.encode(rest))[: len(self._held) - whole] if rest else []
        return tuple(kept[self._context :])

    def _first_needed(self) -> int:
        """Index of the first held id that a later stop may still need."""
        text, held = self._text, self._held
        hold = len(text) - _unfinished(text)
        for beginning in self._plan.beginnings.get(text[-1] if text else -1, ()):
            if text.endswith(beginning):
                hold = min(hold, len(text) - len(beginning))
                break
        needed = len(held) if hold == len(text) else bisect_right(self._starts, hold) - 1
        for stop in self._plan.by_ids:
            for length in range(min(len(stop.ids) - 1, len(held)), 0, -1):
                if tuple(held[-length:]) == stop.ids[:length]:
                    needed = min(needed, len(held) - length)
                    break
        while 0 < needed < len(held) and _is_inside_character(text, self._starts[needed]):
            needed -= 1
        return needed

    def _release(self, count: int) -> tuple[int, ...]:
        out = tuple(self._held[self._context : count])
        if count:
            self._context = max(0, self._context - count)
            self._passed += out[: max(0, self._min_tokens - len(self._passed))]
            cut = self._starts[count] if count < len(self._starts) else len(self._text)
            self._held = self._held[count:]
            self._starts = [start - cut for start in self._starts[count:]]
            self._text = self._text[cut:]
            self._released += count
        return out


def vocabulary_of(
    tokenizer: Any, encode: Callable[[str], Sequence[int]], decode: Callable[[Sequence[int]], str]
) -> Vocabulary:
    """The vocabulary of a Hugging Face tokenizer: byte-level, SentencePiece style, or other by decoding."""

    def encode_part(text: str) -> Sequence[int]:
        return encode_after(text, encode, decode) or encode(text)

    added = {int(i): str(token.content).encode() for i, token in tokenizer.added_tokens_decoder.items()}
    kinds = _decoder_kinds(tokenizer)

    @cache
    def bytes_of(token: int) -> bytes:
        if token in added:
            return added[token]
        piece = tokenizer.convert_ids_to_tokens(token)
        if not piece:
            return b""
        if "ByteLevel" in kinds:
            table = _byte_level_table()
            return b"".join(table.get(c) or c.encode() for c in piece)
        if kinds & {"ByteFallback", "Metaspace"}:
            if len(piece) == 6 and piece.startswith("<0x"):
                return bytes([int(piece[3:5], 16)])
            return str(piece).replace("\u2581", " ").encode()
        return str(tokenizer.decode([token], skip_special_tokens=False)).encode()

    return Vocabulary(bytes_of, encode_part, frozenset(added))


def _decoder_kinds(tokenizer: Any) -> frozenset[str]:
    if not tokenizer.is_fast:
        return frozenset()
    decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"] or {}
    return frozenset(str(part.get("type")) for part in [decoder, *decoder.get("decoders", [])])


@cache
def _byte_level_table() -> dict[str, bytes]:
    """Character -> byte of byte-level BPE: printable Latin-1 is itself, the others start at U+0100."""
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in set(itself)]
    table = {chr(b): bytes([b]) for b in itself}
    table.update({chr(0x100 + n): bytes([b]) for n, b in enumerate(others)})
    return table


def _unfinished(text: bytes) -> int:
    """How many bytes at the end of `text` belong to an incomplete character (0 to 3)."""
    for back in range(1, min(3, len(text)) + 1):
        byte = text[-back]
        if byte & 0xC0 == 0x80:
            continue
        length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return back if back < length else 0
    return 0


def _is_inside_character(text: bytes, at: int) -> bool:
    return at < len(text) and text[at] & 0xC0 == 0x80


class TextStops:
    """Stops in a stream of text. Holds back what may begin a stop.

    is_early: whether a stop may not yet follow the text held so far, given up to that stop. The text of such a stop is
    dropped.
    """

    def __init__(self, stops: Sequence[Stop], is_early: Callable[[str], bool] = lambda text: False) -> None:
        self._stops, self._is_early = sorted(stops, key=lambda stop: -len(stop.text)), is_early
        self.held = ""
        self.early: Stop | None = None
        """The stop that came too early, after the text held."""

    def feed(self, text: str) -> tuple[str, Stop | None]:
        """Text that may be passed on, and the first complete stop if there is one (the longest of several)."""
        self.early = None
        self.held += text
        found = [(self.held.find(stop.text), n) for n, stop in enumerate(self._stops)]
        at, n = min((each for each in found if each[0] >= 0), default=(-1, -1))
        if n >= 0 and not self._is_early(self.held[:at]):
            return self.held[:at], self._stops[n]
        if n >= 0:
            self.early, self.held = self._stops[n], self.held[:at]
        keep = max(
            (
                size
                for stop in self._stops
                for size in range(1, len(stop.text))
                if self.held.endswith(stop.text[:size])
            ),
            default=0,
        )
        out, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return out, self.early

    def flush(self) -> str:
        """The text held back, for a continuation that ended without a stop."""
        out, self.held = self.held, ""
        return out
