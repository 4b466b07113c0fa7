"""Several policies from one shared prefix: an engine that remembers what it decoded, so a sweep costs one run.

Policies that share a wait string decode the same tokens until one of them ends earlier. So the longest policy
runs first, and every shorter one replays its tokens until they diverge. Policies need no special code: under
greedy decoding the cached tokens are what the engine would decode again, and with a seed per sample a request
with the same prefix, seed and count of redraws draws the same tokens. (One case is not covered: a model that
spells a delimiter of one token with several others, exactly where a shorter policy ends.)
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

from s1.policy import BudgetPolicy
from s1.types import Chunk, Continuation, Engine, Finish, Sampling, Stop


@dataclass
class CachedContinuation:
    """What the engine has decoded after one prefix."""

    min_tokens: int
    stops: tuple[Stop, ...]
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    stop: Stop | None = None
    exact: bool = True

    @property
    def reach(self) -> tuple[bool, int]:
        """How much it can serve, for comparison."""
        return self.finish == "stop", len(self.ids)

    def serves(self, request: Continuation) -> bool:
        """Whether the first of these tokens are what `request` would get."""
        if self.stops != request.stops:
            return False
        # Under greedy decoding a mask matters only where a stop would have come, but it changes every draw.
        ended = len(self.ids) if self.finish == "stop" else len(self.ids) + 1
        greedy = request.sampling.temperature == 0
        return self.min_tokens == request.min_tokens or (
            greedy and self.min_tokens == 0 and ended > request.min_tokens
        )

    def sure(self, most: int) -> int:
        """How many of the first `most` tokens a request for that many, or more, surely gets.

        The last before a limit may begin a stop of several tokens. A longer request would find it there; a shorter
        one with a minimum would still have the beginning of a stop that the longer has suppressed.
        """
        count, longest = min(most, len(self.ids)), max((stop.most_tokens for stop in self.stops), default=1)
        unsure = self.finish == "length" if count < most else self.min_tokens > most - longest + 1
        return max(0, count - (longest - 1) * unsure)


class ReplayCache:
    """An engine over another engine, for the policies of one question and sample.

    Requests may run concurrently; each decodes what no other has finished or left before it began.
    """

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.name, self.context, self.eos_texts = engine.name, engine.context, engine.eos_texts
        self.encode, self.decode, self.render = engine.encode, engine.decode, engine.render
        self.template: str | None = engine.template
        self.folder: Path | None = engine.folder
        self.features = frozenset[str]()
        self.encode, self.decode, self.render = engine.encode, engine.decode, engine.render
        self.decoded_tokens = 0
        """Tokens that the engine decoded."""
        self.replayed_tokens = 0
        """Tokens that came from the cache instead."""
        self._cached: dict[tuple[tuple[int, ...], Sampling, int], CachedContinuation] = {}

    async def close(self) -> None:
        """Nothing to release: the inner engine belongs to the caller."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix` from the cache as far as possible, then with the engine."""
        key = request.prefix, request.sampling, request.redraw
        cached = self._cached.get(key)
        made = CachedContinuation(request.min_tokens, request.stops)
        if cached is not None and cached.serves(request):
            count, sure = len(cached.ids), cached.sure(request.max_tokens)
            if sure == request.max_tokens:
                yield self._replay(cached, sure, Chunk((), "length"))
                return
            if cached.stop is not None and count + cached.stop.most_tokens <= request.max_tokens:
                yield self._replay(cached, count, Chunk((), "stop", cached.stop))
                return
            if sure and (request.sampling.temperature == 0 or request.sampling.seed is not None):
                yield self._replay(cached, sure, Chunk(()))
                made.ids, made.exact = cached.ids[:sure], cached.exact
        try:
            async with aclosing(self._decode(request, made)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            known = self._cached.get(key)  # another request may have come as far meanwhile
            if known is None or not known.serves(request) or made.reach > known.reach:
                self._cached[key] = made

    def _replay(self, cached: CachedContinuation, count: int, end: Chunk) -> Chunk:
        self.replayed_tokens += count
        return replace(end, ids=tuple(cached.ids[:count]), exact=cached.exact)

    async def _decode(self, request: Continuation, made: CachedContinuation) -> AsyncGenerator[Chunk, None]:
        """The tokens of `request` after those that `made` has, which takes them too.

        A sample is drawn again from its beginning, because a server restarts its random numbers with each request.
        Where an engine does not repeat its sample, it continues after what has been passed on.
        """
        known = tuple(made.ids)
        tries = [(request, known)] if known and request.sampling.temperature > 0 else []
        for asked, again in [*tries, (request.after(known), ())]:
            async with aclosing(self.inner.stream(asked)) as chunks:
                async for chunk in chunks:
                    self.decoded_tokens += len(chunk.ids)
                    repeated, ids = chunk.ids[: len(again)], chunk.ids[len(again) :]
                    if repeated != again[: len(repeated)] or (chunk.finish and len(repeated) < len(again)):
                        break
                    again = again[len(repeated) :]
                    made.ids.extend(ids)
                    made.exact = made.exact and chunk.exact
                    made.finish, made.stop = chunk.finish, chunk.stop
                    if ids or chunk.finish:
                        yield replace(chunk, ids=ids)
                else:
                    return


def longest_first(policies: Sequence[BudgetPolicy]) -> list[BudgetPolicy]:
    """The order in which policies share a replay cache: the most thinking first."""

    def reach(policy: BudgetPolicy) -> tuple[int, int, int]:
        unlimited = policy.max_thinking is None
        return (policy.waits, int(unlimited), policy.max_thinking or 0)

    return sorted(policies, key=reach, reverse=True)
