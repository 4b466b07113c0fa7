"""A whole budget in one request, for servers with s1's plug-in (docs/guides/vllm.md).

`drive` asks for continuations as ever. Here they are cut out of the one stream in which the server has
already done the forcing, so that `Forcing` checks every forced token and writes the same record.

    the server's stream   think think Wait think </think> answer
    what is given out     think think | stop; think | stop; answer

Where the model itself may have written what stands in the place of a drawn end (more wait strings than waits, a
newline before the end), the server is asked once more for the token of that place, with another wait string.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from s1.engines.requests import seed_at
from s1.errors import EngineFailure
from s1.types import Chunk, Continuation, Sampling, Stop

if TYPE_CHECKING:
    from s1.prompt import EncodedPrompt

Fields = Mapping[str, Any]
Decode = Callable[[Continuation, Fields], AsyncGenerator[Chunk, None]]
"""Streams a continuation with the plug-in's fields, seeded with the request's own seed, until an end of turn."""
FIELDS = ("min_thinking", "waits", "wait", "cue")
"""What the plug-in knows of a policy, besides the limits."""
PROBES = ("Wait", "Hmm", "So", "x", "1", ".")


class OneRequest:
    """An engine for one `Forcing`, over a server with the plug-in. Close it when done."""

    def __init__(
        self, decode: Decode, encoded: EncodedPrompt, sampling: Sampling, limit: int, engine: Any
    ) -> None:
        self._decode, self._encoded, self._limit, self._engine = decode, encoded, limit, engine
        if sampling.temperature > 0:
            seed = secrets.randbits(31) if sampling.seed is None else sampling.seed
            sampling = replace(sampling, seed=seed_at(seed, len(encoded.prompt)))
        self._sampling = sampling
        self._out: list[int] = []
        self._end: Chunk | None = None
        self._waits = 0
        self._source: AsyncGenerator[Chunk, None] | None = None

    async def close(self) -> None:
        """End the request in the server."""
        if self._source is not None:
            await self._source.aclose()

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """The part of the server's stream that `request` asks for."""
        begin = len(self._encoded.prompt)
        at, given = len(request.prefix) - begin, 0
        await self._has(at)
        if list(request.prefix[begin:]) != self._out[:at]:  # turned meanwhile: from here on, from outside
            await self.close()
            async with aclosing(self._engine.stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
            return
        thinking = any(stop not in self._encoded.answer_stops for stop in request.stops)
        while given < request.max_tokens:
            if not await self._has(at + 1):
                assert self._end is not None
                yield Chunk((), self._end.finish, self._end.stop)
                return
            waits = self._waits
            if thinking and given >= request.min_tokens and await self._end_was_drawn(at, request):
                stop = await self._stop_at(at, request) if waits == self._waits else request.stops[0]
                yield Chunk((), "stop", stop)
                return
            yield Chunk((self._out[at],))
            at, given = at + 1, given + 1
        yield Chunk((), "length")

    async def _has(self, count: int) -> bool:
        """Read on until there are `count` tokens. Returns False where the stream ends before."""
        if self._source is None:
            self._source = self._decode(self._whole(), budget_fields(self._encoded, self._limit))
        while len(self._out) < count and self._end is None:
            chunk = await anext(self._source, None)
            if chunk is None:
                raise EngineFailure(f"{self._engine.name}: the stream ended early.")
            self._out.extend(chunk.ids)
            if chunk.finish:
                self._end = chunk
        return len(self._out) >= count

    def _whole(self) -> Continuation:
        encoded, policy = self._encoded, self._encoded.policy
        left = encoded.context - len(encoded.prompt)
        answers = [n for n in (policy.max_answer, encoded.answer_limit) if n is not None]
        most = min([left, self._limit + encoded.forced_end + max(1, min(answers, default=left))])
        return Continuation(encoded.prompt, most, encoded.answer_stops, 0, self._sampling)

    async def _end_was_drawn(self, at: int, request: Continuation) -> bool:
        """Whether the model drew an end at `at`, where the stream shows what stands in its place."""
        encoded, policy = self._encoded, self._encoded.policy
        if self._out[at] in {stop.ids[0] for stop in request.stops}:
            return True
        wait = encoded.waits[self._waits % len(encoded.waits)]
        may_wait = self._waits < policy.waits or at < policy.min_thinking
        waits = may_wait and at + len(wait) < self._limit and await self._reads(at, wait)
        if not waits and not (encoded.newline and await self._reads(at, encoded.newline + encoded.close)):
            return False
        drawn = (waits and await self._all_are_forced(at)) or await self._ask_again(at)
        self._waits += waits and drawn
        return drawn

    async def _stop_at(self, at: int, request: Continuation) -> Stop:
        """Which stop was drawn: the end of turn and the delimiter leave the same tokens in the stream."""
        ends = self._encoded.answer_stops
        delimiters = [stop for stop in request.stops if stop not in ends]
        by_id = {stop.ids[0]: stop for stop in delimiters}
        return ends[0] if await self._ask_again(at, ends) else by_id.get(self._out[at], delimiters[0])

    async def _all_are_forced(self, at: int) -> bool:
        """Whether the thinking ended by itself, with room for another wait, and shows from `at` on no more wait strings
        than were still to come: then each of them is forced."""
        encoded = self._encoded
        ends = {stop.ids[0] for stop in encoded.stops}
        last = at
        while await self._has(last + 1) and self._out[last] not in ends:
            last += 1
        room = last + max(map(len, encoded.waits)) < self._limit
        seen = [
            n for n in range(at, last) if any(tuple(self._out[n : n + len(w)]) == w for w in encoded.waits)
        ]
        return room and len(self._out) > last and len(seen) == encoded.policy.waits - self._waits

    async def _reads(self, at: int, ids: tuple[int, ...]) -> bool:
        return bool(ids) and await self._has(at + len(ids)) and tuple(self._out[at : at + len(ids)]) == ids

    async def _ask_again(self, at: int, ends: Sequence[Stop] = ()) -> bool:
        """Whether the model draws an end (one of `ends`) at `at`: the same coin, another wait string."""
        text = next(w for w in PROBES if self._engine.encode(w)[0] != self._out[at])
        ids = self._engine.encode(text)
        limit = len(ids) + 1
        fields = {**budget_fields(self._encoded, limit), "min_thinking": 0, "waits": 1, "wait": text}
        if ends:
            fmt = {**json.loads(fields["thinking_format"]), "stops": [stop.text for stop in ends]}
            fields["thinking_format"] = json.dumps(fmt)
        request = self._whole()
        prefix = request.prefix + tuple(self._out[:at])
        request = replace(request, prefix=prefix, max_tokens=limit + self._encoded.forced_end + 1)
        room = self._encoded.context - len(prefix)
        if request.max_tokens > room:  # at the very end of the context nothing could follow a wait
            return True
        async with aclosing(self._decode(request, fields)) as chunks:
            async for chunk in chunks:
                if chunk.ids:
                    return bool(chunk.ids[0] == ids[0])
        raise EngineFailure(f"{self._engine.name}: no token came where one had come before.")


def fits_one_request(engine: Any, encoded: EncodedPrompt) -> bool:
    """Whether the plug-in knows all of the policy, and its record can be read from the tokens alone."""
    policy, default = encoded.policy, type(encoded.policy)()
    known = {name: getattr(default, name) for name in ("max_thinking", "max_answer", *FIELDS)}
    texts = (encoded.close, encoded.cue, *encoded.waits)
    return (
        replace(policy, **known) == default
        and encoded.json_schema is None
        and encoded.logprobs is None
        and all(len(stop.ids) == 1 for stop in encoded.stops)
        and {stop.text for stop in encoded.answer_stops} == set(engine.eos_texts)
        and (all(encoded.waits) or (not policy.waits and not any(encoded.waits)))
        and len(encoded.waits) <= 8
        and all(len(ids) <= 48 for ids in texts)
        and not {i for ids in texts for i in ids} & {i for stop in encoded.answer_stops for i in stop.ids}
        and not {i for ids in encoded.waits for i in ids} & {stop.ids[0] for stop in encoded.stops}
        and all(engine.encode(engine.decode(ids)) == ids for ids in texts if ids)
    )


def budget_fields(encoded: EncodedPrompt, limit: int) -> Fields:
    """The plug-in's fields for a policy, with the format written out."""
    policy, eos = encoded.policy, {stop.text for stop in encoded.answer_stops}
    fmt = {
        "name": "s1",
        "open": "",  # the prompt has it
        "close": encoded.decode(encoded.close),
        "stops": [stop.text for stop in encoded.stops if stop.text not in eos],
        "cue": encoded.decode(encoded.cue) if encoded.cue else "",
        "newline": bool(encoded.newline),
    }
    return {
        "max_thinking": limit,
        "min_thinking": policy.min_thinking,
        "waits": policy.waits,
        "wait": list(policy.wait),
        "cue": policy.cue,
        "thinking_format": json.dumps(fmt),
    }
