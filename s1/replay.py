"""Several policies from one trunk: an engine remembers what it has decoded, so a curve costs one run.

Policies that share a wait string walk the same path until one of them ends it earlier. So the longest
policy runs first, and every shorter one replays from memory until it diverges. No policy needs special
code: under greedy decoding the remembered tokens are the ones that the engine would decode again, and with a
seed per sample an ask with the same prefix and seed draws the same tokens. (One case is left open: a model
that spells a delimiter of one token with several others, just where a shorter policy ends.)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from s1.policy import BudgetPolicy
from s1.types import Chunk, Continuation, Engine, Finish, Sampling, Stop


@dataclass
class CachedContinuation:
    """What the engine decoded after one prefix, as far as it got."""

    min_tokens: int
    stops: tuple[Stop, ...]
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    stop: Stop | None = None
    exact: bool = True

    def serves(self, ask: Continuation) -> bool:
        """Whether the first tokens of this record are what `ask` would get."""
        if self.stops != ask.stops:
            return False
        # A mask matters to greedy decoding only where a stop would have come, but it moves every draw.
        ended = len(self.ids) if self.finish == "stop" else len(self.ids) + 1
        greedy = ask.sampling.temperature == 0
        return self.min_tokens == ask.min_tokens or (
            greedy and self.min_tokens == 0 and ended > ask.min_tokens
        )

    @property
    def unsure(self) -> int:
        """Tokens at the end that a longer ask may see otherwise: they may begin a stop of several tokens."""
        return max((_most_tokens(stop) for stop in self.stops), default=1) - 1


def _most_tokens(stop: Stop) -> int:
    """How many tokens may spell `stop`: a longer one may come in other tokens than its ids, down to bytes."""
    return 1 if len(stop.ids) == 1 else len(stop.text.encode())


class ReplayCache:
    """An engine around an engine, for the policies of one question and sample.

    Not for concurrent use before the longest policy is through; afterwards the rest may run side by side.
    """

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.name, self.context, self.eos_texts = engine.name, engine.context, engine.eos_texts
        self.template: str | None = engine.template
        self.folder: Path | None = engine.folder
        self.decoded_tokens = 0
        """Tokens that the engine really decoded."""
        self.replayed_tokens = 0
        self._memory: dict[tuple[tuple[int, ...], Sampling], CachedContinuation] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        return self.inner.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self.inner.render(messages)

    async def close(self) -> None:
        """Nothing to release here: the engine within belongs to the caller."""

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        known = self._memory.get((ask.prefix, ask.sampling))
        if known is not None and known.serves(ask):
            count = len(known.ids)
            if count >= ask.max_tokens:
                yield self._replay(known, ask.max_tokens, Chunk((), "length"))
                return
            if known.stop is not None and count + _most_tokens(known.stop) <= ask.max_tokens:
                yield self._replay(known, count, Chunk((), "stop", known.stop))
                return
            kept = count - known.unsure
            if ask.sampling.temperature == 0 and kept > 0:  # go on where the record is sure
                yield self._replay(known, kept, Chunk(()))
                del known.ids[kept:]
                known.finish = known.stop = None
                rest = replace(
                    ask,
                    prefix=ask.prefix + tuple(known.ids),
                    max_tokens=ask.max_tokens - kept,
                    min_tokens=max(0, ask.min_tokens - kept),
                )
                async with aclosing(self._decode(rest, known)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
        record = CachedContinuation(ask.min_tokens, ask.stops)
        self._memory[ask.prefix, ask.sampling] = record
        async with aclosing(self._decode(ask, record)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _replay(self, known: CachedContinuation, count: int, end: Chunk) -> Chunk:
        self.replayed_tokens += count
        return replace(end, ids=tuple(known.ids[:count]), exact=known.exact)

    async def _decode(self, ask: Continuation, record: CachedContinuation) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self.inner.stream(ask)) as chunks:
            async for chunk in chunks:
                record.ids.extend(chunk.ids)
                record.exact = record.exact and chunk.exact
                self.decoded_tokens += len(chunk.ids)
                if chunk.finish == "stop":
                    record.finish, record.stop = chunk.finish, chunk.stop
                yield chunk


def longest_first(policies: Sequence[BudgetPolicy]) -> list[BudgetPolicy]:
    """Policies in the order in which a trunk runs them: the most thinking first."""

    def reach(policy: BudgetPolicy) -> tuple[int, int, int]:
        unlimited = policy.max_thinking is None
        return (policy.waits, int(unlimited), policy.max_thinking or 0)

    return sorted(policies, key=reach, reverse=True)
