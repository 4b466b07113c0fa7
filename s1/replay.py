"""Several policies from one shared prefix: an engine that remembers what it decoded, so a sweep costs one run.

Policies that share a wait string decode the same tokens until one of them ends earlier. So the longest policy
runs first, and every shorter one replays its tokens until they diverge. Policies need no special code: under
greedy decoding the cached tokens are what the engine would decode again, and with a seed per sample a request
with the same prefix, seed and count of redraws draws the same tokens. (One case is not covered: a model that
spells a delimiter of one token with several others, exactly where a shorter policy ends.)
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
    """What the engine has decoded after one prefix."""

    min_tokens: int
    stops: tuple[Stop, ...]
    ids: list[int] = field(default_factory=list)
    finish: Finish | None = None
    stop: Stop | None = None
    exact: bool = True

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

    @property
    def unsure(self) -> int:
        """How many of the last tokens may begin a stop of several tokens, which a longer request would find."""
        return max((_most_tokens(stop) for stop in self.stops), default=1) - 1


def _most_tokens(stop: Stop) -> int:
    """Most tokens that can spell `stop`: a long one may come as other tokens than its ids, down to bytes."""
    return 1 if len(stop.ids) == 1 else len(stop.text.encode())


class ReplayCache:
    """An engine over another engine, for the policies of one question and sample.

    Not for concurrent use until the longest policy is done; after that the others may run concurrently.
    """

    def __init__(self, engine: Engine) -> None:
        self.inner = engine
        self.name, self.context, self.eos_texts = engine.name, engine.context, engine.eos_texts
        self.template: str | None = engine.template
        self.folder: Path | None = engine.folder
        self.decoded_tokens = 0
        """Tokens that the engine decoded."""
        self.replayed_tokens = 0
        """Tokens that came from the cache instead."""
        self._cached: dict[tuple[tuple[int, ...], Sampling, int], CachedContinuation] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        return self.inner.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self.inner.decode(ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self.inner.render(messages)

    async def close(self) -> None:
        """Nothing to release: the inner engine belongs to the caller."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix` from the cache as far as possible, then with the engine."""
        key = request.prefix, request.sampling, request.redraw
        cached = self._cached.get(key)
        if cached is not None and cached.serves(request):
            count = len(cached.ids)
            if count >= request.max_tokens:
                yield self._replay(cached, request.max_tokens, Chunk((), "length"))
                return
            if cached.stop is not None and count + _most_tokens(cached.stop) <= request.max_tokens:
                yield self._replay(cached, count, Chunk((), "stop", cached.stop))
                return
            sure = count - cached.unsure
            if request.sampling.temperature == 0 and sure > 0:  # continue after the tokens that are sure
                yield self._replay(cached, sure, Chunk(()))
                del cached.ids[sure:]
                cached.finish = cached.stop = None
                rest = replace(
                    request,
                    prefix=request.prefix + tuple(cached.ids),
                    max_tokens=request.max_tokens - sure,
                    min_tokens=max(0, request.min_tokens - sure),
                )
                async with aclosing(self._decode(rest, cached)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
        cached = self._cached[key] = CachedContinuation(request.min_tokens, request.stops)
        async with aclosing(self._decode(request, cached)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _replay(self, cached: CachedContinuation, count: int, end: Chunk) -> Chunk:
        self.replayed_tokens += count
        return replace(end, ids=tuple(cached.ids[:count]), exact=cached.exact)

    async def _decode(self, request: Continuation, cached: CachedContinuation) -> AsyncGenerator[Chunk, None]:
        async with aclosing(self.inner.stream(request)) as chunks:
            async for chunk in chunks:
                cached.ids.extend(chunk.ids)
                cached.exact = cached.exact and chunk.exact
                self.decoded_tokens += len(chunk.ids)
                if chunk.finish == "stop":
                    cached.finish, cached.stop = chunk.finish, chunk.stop
                yield chunk


def longest_first(policies: Sequence[BudgetPolicy]) -> list[BudgetPolicy]:
    """The order in which policies share a replay cache: the most thinking first."""

    def reach(policy: BudgetPolicy) -> tuple[int, int, int]:
        unlimited = policy.max_thinking is None
        return (policy.waits, int(unlimited), policy.max_thinking or 0)

    return sorted(policies, key=reach, reverse=True)
