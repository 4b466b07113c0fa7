"""What every engine needs around a request: checks, derived values, and stops that come before the minimum."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import takewhile

from s1.engines.stops import StopMatcher
from s1.errors import BadInput, EngineFailure, Unsupported
from s1.types import Chunk, Continuation, TokenLogprob

REDRAWS = 1 << 16
"""A request counts its own redraws above those of the caller, so that no draw uses a number twice."""


OPTIONAL = ("json_schema", "logprobs")
"""Fields of a continuation that some engines follow (`Engine.features`)."""


def check_request(
    request: Continuation, *, context: int, vocab_size: int | None, features: frozenset[str] = frozenset()
) -> None:
    """Raise BadInput for a request that no engine can serve, Unsupported for one beyond `features`.

    All limits in tokens.
    """
    for name in OPTIONAL:
        if getattr(request, name) is not None and name not in features:
            raise Unsupported(f"This engine does not support {name}.", "Do without, or use a vLLM server.")
    if not request.prefix:
        raise BadInput("The prefix is empty.", "Give at least one token.")
    stop_ids = [i for stop in request.stops for i in stop.ids]
    for what, ids in (("the prefix", request.prefix), ("a stop", stop_ids)):
        valid = valid_count(ids, vocab_size)
        if valid < len(ids):
            raise BadInput(
                f"Token id {ids[valid]} of {what} is not in the vocabulary of {vocab_size} tokens.",
                "Encode the text with the tokenizer of this model.",
            )
    if not 0 <= request.min_tokens <= request.max_tokens:
        raise BadInput(
            f"max_tokens {request.max_tokens} and min_tokens {request.min_tokens} contradict each other.",
            "Use 0 <= min_tokens <= max_tokens.",
        )
    if (room := context - len(request.prefix)) < request.max_tokens:
        raise BadInput(
            f"A prefix of {len(request.prefix)} tokens and {request.max_tokens} more exceed "
            f"the context of {context}.",
            f"Request at most {room} tokens or shorten the prefix." if room > 0 else "Shorten the prefix.",
        )


def with_logprobs(chunk: Chunk, known: list[TokenLogprob]) -> Chunk:
    """The chunk with the first of `known`, one for each of its ids, which are removed there.

    Where a stop began within a token, the ids that spell the rest of it were never drawn: they get none.
    """
    if not known:
        return chunk
    count = len(chunk.ids)
    pairs = takewhile(lambda pair: pair[0] == pair[1].token, zip(chunk.ids, known, strict=False))
    taken = tuple(each for _, each in pairs)
    del known[:count]
    return replace(chunk, logprobs=taken)


def seed_at(seed: int | None, position: int, redraw: int = 0) -> int | None:
    """The seed, below 2**31, for a continuation that begins at `position`, another one for each `redraw`.

    A server restarts its random numbers with each request. If all continuations of a sample had the same
    seed, the tokens after a wait would be drawn with the same numbers as the first tokens.
    """
    if seed is None:
        return None
    key = f"{seed} {position} {redraw}" if redraw else f"{seed} {position}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4]) >> 1


def single_ids(request: Continuation) -> list[int]:
    """The stops that are a single token, as ids."""
    return sorted({stop.ids[0] for stop in request.stops if len(stop.ids) == 1})


def valid_count(ids: Sequence[int], vocab_size: int | None) -> int:
    """How many of `ids` come before the first one outside the vocabulary (padding of the embedding)."""
    size = float("inf") if vocab_size is None else vocab_size
    return next((n for n, i in enumerate(ids) if not 0 <= i < size), len(ids))


async def suppress_early_stops(
    request: Continuation,
    matcher: StopMatcher,
    decode: Callable[[Continuation, frozenset[int]], AsyncGenerator[Chunk, None]],
) -> AsyncGenerator[Chunk, None]:
    """The chunks of `request`, without the stops that begin before its minimum.

    An engine masks stops of one token. Other stops are seen only when their last token is out: then all of their tokens
    are dropped, and the request goes on from there, without the token with which the stop began and with new random
    numbers. decode: continues a request, feeding `matcher`; its first draw excludes the given ids.
    Raises EngineFailure when `decode` draws an excluded id.
    """
    got, redraws, banned = list[int](), 0, dict[int, set[int]]()
    while True:
        drawn = (*got, *matcher.held)
        rest = replace(request.after(drawn), redraw=request.redraw + REDRAWS * redraws)
        async with aclosing(decode(rest, frozenset(banned.get(len(drawn), ())))) as chunks:
            async for chunk in chunks:
                got += chunk.ids
                if chunk.finish != "stop" or matcher.early is None:
                    yield chunk
                elif chunk.ids:
                    yield replace(chunk, finish=None, stop=None)
        if matcher.early is None:
            return
        place, token = len(got) + len(matcher.held), matcher.early
        banned = {at: ids for at, ids in banned.items() if at <= place}
        if token in banned.setdefault(place, set()):
            raise EngineFailure(f"The engine drew the token {token}, which was excluded.")
        banned[place].add(token)
        redraws, matcher.early = redraws + 1, None
