"""A model for tests: its next token is a hash of the tokens before it. It follows the `Engine` protocol exactly.

Unlike the scripted engine it never runs out of text, writes bytes that need not be valid UTF-8, and gives the
same continuation however a prefix was reached. Masking works as in a real engine: the second choice under
greedy decoding, another draw under sampling. An end of several tokens before the minimum is taken back, and its first
token is masked there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from s1.budget import Forcing
from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Chunk, Continuation, Engine, Generation, Sampling

T = TypeVar("T")

TAGS = ThinkingFormat("tags", "<think>\n", "</think>\n\n", ("</think>",), "Final Answer:", newline=True)
SPELLED = ThinkingFormat("spelled", "(", "ab)", ("ab",), "So:")
"""Its end is two tokens of the test model, both of which also occur alone."""
FORMATS = (TAGS, SPELLED)

GREEDY = Sampling()
PROMPT = "<|user|>2+2?<|assistant|>"


class TokenModel(ScriptedEngine):
    """`ends_in` is about how many tokens pass between two ends; `chunk` splits the stream."""

    def __init__(
        self,
        seed: int = 0,
        *,
        ends_in: int = 6,
        chunk: int = 3,
        context: int = 400,
        delimiter: str = "</think>",
        end: str = "<|end|>",
    ) -> None:
        super().__init__([], context=context, end=end)
        self._seed, self._size = seed, chunk
        common = [*"a.b\né".encode(), 0xE2, 0x20]
        ends = self.encode(delimiter) * 5 + self.encode(end) * 2
        self._tokens = tuple(common * max(1, ends_in // 2)) + ends

    def next(self, ids: Sequence[int], request: Continuation, masked: frozenset[int] = frozenset()) -> int:
        """The token after `ids`, all tokens since the start of the prompt."""
        state = self._seed * 7919 + (request.sampling.seed or 0) * 104729
        if request.sampling.temperature > 0:
            state += request.redraw * 15485863
        for token in ids[-12:]:
            state = (state * 1_000_003 + token + 1) % (1 << 61)
        state = (state ^ len(ids) * 0x9E3779B97F4A7C15) % (1 << 64)
        if request.sampling.temperature > 0:  # masking moves every draw
            allowed = [t for t in self._tokens if t not in masked]
            return allowed[(state >> 7) % len(allowed)]
        while (token := self._tokens[(state >> 7) % len(self._tokens)]) in masked:
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        return token

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        assert request.max_tokens > 0 and 0 <= request.min_tokens <= request.max_tokens
        assert len(request.prefix) + request.max_tokens <= self.context
        self.asked.append(request)
        assert len(self.asked) < 3_000, "the request does not end"
        single = frozenset(s.ids[0] for s in request.stops if len(s.ids) == 1)
        everything, out = list(request.prefix), list[int]()
        last = Chunk((), "length")
        banned = dict[int, frozenset[int]]()
        while len(out) < request.max_tokens:
            masked = single if len(out) < request.min_tokens else frozenset[int]()
            masked |= banned.get(len(out), frozenset())
            everything.append(self.next(everything, request, masked))
            out.append(everything[-1])
            for stop in request.stops:
                begin = len(out) - len(stop.ids)
                if begin < 0 or tuple(out[begin:]) != stop.ids:
                    continue
                if begin < request.min_tokens:
                    banned = {at: ids for at, ids in banned.items() if at <= begin}
                    banned[begin] = banned.get(begin, frozenset()) | {stop.ids[0]}
                    del out[begin:], everything[len(request.prefix) + begin :]
                else:
                    last = Chunk((), "stop", stop)
                    del out[begin:]
                break
            if last.finish == "stop":
                break
        for at in range(0, len(out), self._size):
            piece = tuple(out[at : at + self._size])
            if at + self._size >= len(out) and self._size % 2:  # the finish comes with or after the last ids
                yield Chunk(piece, last.finish, last.stop)
                return
            yield Chunk(piece)
        yield last


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never waits, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]
    raise AssertionError("The coroutine waited.")


def force(
    engine: Engine, policy: BudgetPolicy, fmt: ThinkingFormat = TAGS, sampling: Sampling = GREEDY
) -> Generation:
    """One request, from the prompt to its generation."""
    return run(drive(Forcing(encode_prompt(engine, fmt, policy, PROMPT), sampling), engine))
