"""Policies that share a cache get exactly what each would get alone, and the cache is decoded once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from token_model import FORMATS, GREEDY, PROMPT, TAGS, TokenModel, force, run

from s1.budget import Forcing
from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.replay import ReplayCache, longest_first
from s1.types import Chunk, Continuation, Generation, Sampling, Stop

MANY = settings(max_examples=250, derandomize=True, deadline=None, database=None)


@st.composite
def policies(draw: st.DrawFn) -> BudgetPolicy:
    most = draw(st.none() | st.integers(0, 60))
    return BudgetPolicy(
        max_thinking=most,
        min_thinking=draw(st.just(0) | st.integers(0, 60 if most is None else most)),
        waits=draw(st.integers(0, 4)),
        wait=draw(st.sampled_from([("Wait",), ("",), ("W", "", "Hmm")])),
        max_answer=draw(st.none() | st.integers(0, 20)),
        grace=draw(st.just(0) | st.integers(0, 12)),
    )


def generation(generation: Generation) -> Generation:
    return replace(generation, seconds=0.0, first_token_seconds=None)


@MANY
@given(
    st.lists(policies(), min_size=2, max_size=6),
    st.booleans(),
    st.sampled_from([GREEDY, Sampling(1.0, seed=5)]),
    st.sampled_from(FORMATS),
    st.integers(0, 999),
    st.integers(1, 30),
    st.integers(1, 9),
)
def test_each_policy_gets_what_it_would_get_alone(
    chosen: list[BudgetPolicy],
    ordered: bool,
    sampling: Sampling,
    fmt: ThinkingFormat,
    seed: int,
    ends_in: int,
    chunk: int,
) -> None:
    cache = ReplayCache(TokenModel(seed, ends_in=ends_in, chunk=chunk))
    for policy in longest_first(chosen) if ordered else chosen:
        alone = force(TokenModel(seed, ends_in=ends_in, chunk=chunk), policy, fmt, sampling)
        assert generation(force(cache, policy, fmt, sampling)) == generation(alone)


@MANY
@given(
    st.lists(st.integers(0, 80), min_size=1, max_size=6, unique=True),
    st.integers(0, 4),
    st.integers(1, 10),
    st.sampled_from([GREEDY, Sampling(1.0, seed=5)]),
    st.integers(0, 999),
    st.integers(1, 30),
)
def test_a_sweep_decodes_the_longest_policy_and_the_answers(
    budgets: list[int], waits: int, answer: int, sampling: Sampling, seed: int, ends_in: int
) -> None:
    sweep = [
        BudgetPolicy(max_thinking=b, waits=w, max_answer=answer) for b in budgets for w in range(waits + 1)
    ]
    cache = ReplayCache(TokenModel(seed, ends_in=ends_in))
    got = [force(cache, policy, TAGS, sampling) for policy in longest_first(sweep)]
    longest = got[0].thinking_tokens
    assert cache.decoded_tokens <= longest + sum(g.answer_tokens for g in got)


def collect(engine: ReplayCache | ScriptedEngine, request: Continuation) -> tuple[str, Chunk]:
    async def all_chunks() -> list[Chunk]:
        return [chunk async for chunk in engine.stream(request)]

    chunks = run(all_chunks())
    return engine.decode([i for c in chunks for i in c.ids]), chunks[-1]


PREFIX = "<|user|>"


def saying(text: str) -> ScriptedEngine:
    """An engine that continues `PREFIX` with `text`, wherever in it a prefix ends."""
    return ScriptedEngine(lambda prefix: text[len(prefix) - len(PREFIX) :])


def test_a_shorter_request_is_replayed_and_a_longer_one_continues_it() -> None:
    inner = saying("0123456789abcdefghij</think>")
    cache = ReplayCache(inner)
    request = Continuation(inner.encode(PREFIX), 10, (Stop("</think>", inner.encode("</think>")),))
    assert collect(cache, request)[0] == "0123456789"
    assert collect(cache, replace(request, max_tokens=4))[0] == "0123"
    assert (cache.decoded_tokens, cache.replayed_tokens) == (10, 4)
    text, last = collect(cache, replace(request, max_tokens=30))
    assert (text, last.finish) == ("0123456789abcdefghij", "stop")
    assert len(inner.asked) == 2
    assert collect(cache, replace(request, max_tokens=30))[0] == text
    assert len(inner.asked) == 2


def test_a_stop_that_the_limit_cut_in_two_is_found_by_the_longer_request() -> None:
    inner = saying("abc[/T]rest")
    cache = ReplayCache(inner)
    request = Continuation(inner.encode(PREFIX), 5, (Stop("[/T]", inner.encode("[/T]")),))
    assert collect(cache, request)[0] == "abc[/"
    assert collect(cache, replace(request, max_tokens=20)) == ("abc", Chunk((), "stop", request.stops[0]))
    assert collect(cache, request)[0] == "abc[/"


def test_an_inexact_count_stays_inexact_when_replayed() -> None:
    class Estimating(ScriptedEngine):
        async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
            async for chunk in super().stream(request):
                yield replace(chunk, exact=False)

    cache = ReplayCache(Estimating(lambda prefix: "abc</think>" if "</" not in prefix else "4<|end|>"))
    long, short = (force(cache, BudgetPolicy(max_thinking=n, max_answer=0)) for n in (20, 2))
    assert cache.replayed_tokens == 2
    assert not long.exact and not short.exact


def test_leaving_a_continuation_early_closes_the_engine_at_once() -> None:
    closed: list[bool] = []

    class Watched(ScriptedEngine):
        async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
            try:
                async for chunk in super().stream(request):
                    yield chunk
            finally:
                closed.append(True)

    cache = ReplayCache(Watched(["abcdefghij"], chunk=1))

    async def leave() -> str:
        async with aclosing(cache.stream(Continuation((1,), 9))) as chunks:
            async for _ in chunks:
                break
        return "closed" if closed else "still open"

    assert run(leave()) == "closed"
    assert cache.decoded_tokens == 1


def test_the_longest_policy_comes_first() -> None:
    short, long, waiting = BudgetPolicy(max_thinking=5), BudgetPolicy(), BudgetPolicy(max_thinking=5, waits=1)
    assert longest_first([short, long, waiting]) == [waiting, long, short]


class Slow(TokenModel):
    """Lets other requests in after each chunk."""

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().stream(request):
            await asyncio.sleep(0)
            yield chunk


@settings(max_examples=60, derandomize=True, deadline=None, database=None)
@given(
    st.lists(policies(), min_size=2, max_size=5),
    st.sampled_from([GREEDY, Sampling(1.0, seed=5)]),
    st.sampled_from(FORMATS),
    st.integers(0, 999),
    st.lists(st.integers(0, 20), min_size=10, max_size=10),
)
def test_requests_at_the_same_time_do_not_disturb_each_other(
    chosen: list[BudgetPolicy], sampling: Sampling, fmt: ThinkingFormat, seed: int, delays: list[int]
) -> None:
    async def later(forcing: Forcing, engine: ReplayCache, delay: int) -> Generation:
        for _ in range(delay):
            await asyncio.sleep(0)
        return await drive(forcing, engine)

    async def together(engine: ReplayCache, again: int) -> list[Generation]:
        rows = [Forcing(encode_prompt(engine, fmt, p, PROMPT), sampling) for p in chosen * again]
        pairs = zip(rows, delays, strict=False)
        return await asyncio.gather(*(later(row, engine, delay) for row, delay in pairs))

    cache = ReplayCache(Slow(seed, ends_in=12))
    alone = [generation(force(TokenModel(seed, ends_in=12), policy, fmt, sampling)) for policy in chosen]
    assert list(map(generation, asyncio.run(together(cache, 2)))) == alone * 2
    assert list(map(generation, asyncio.run(together(cache, 1)))) == alone  # what they left behind is whole


def test_a_sample_that_was_left_is_replayed_and_goes_on_as_it_would_alone() -> None:
    request = Continuation((1,), 40, sampling=Sampling(1.0, seed=3))
    model, cache = TokenModel(4, chunk=2), ReplayCache(TokenModel(4, chunk=2))

    async def leave() -> None:
        async with aclosing(cache.stream(request)) as chunks:
            async for _ in chunks:
                return

    run(leave())
    assert cache.decoded_tokens == 2
    assert collect(cache, request)[0] == collect(model, request)[0]
    assert cache.replayed_tokens == 2


def test_a_sample_that_the_engine_does_not_repeat_stays_one_text() -> None:
    class Restless(ScriptedEngine):
        async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
            for token in request.prefix[-1] + 1 + 10 * len(self.asked), request.prefix[-1] + 2:
                self.asked.append(request)
                yield Chunk((token,))
            yield Chunk((), "length")

    cache = ReplayCache(Restless([]))
    request = Continuation((1,), 3, sampling=Sampling(1.0, seed=3))

    async def first(count: int) -> list[int]:
        ids = list[int]()
        async with aclosing(cache.stream(request)) as chunks:
            async for chunk in chunks:
                ids += chunk.ids
                if len(ids) == count:
                    break
        return ids

    left = run(first(1))
    whole = run(first(3))
    assert whole[:1] == left and whole[1] > left[0]
