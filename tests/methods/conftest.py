"""A scripted model that tells its rollouts apart by their seeds and interleaves them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from s1.engines.scripted import ScriptedEngine
from s1.errors import EngineFailure
from s1.formats import FORMATS
from s1.methods import Scored, Task
from s1.types import Question, Sampling

QUESTION = Question("q", "What?", "7")


class Rolled(ScriptedEngine):
    """Rollout i thinks and answers as `rolls[i]` says; None breaks off. A piece every `turns[i]` of the loop."""

    def __init__(
        self,
        rolls: Sequence[tuple[str, str] | None],
        seed: int = 3,
        chunk: int = 1,
        turns: Sequence[int] = (),
    ) -> None:
        super().__init__(self._say, chunk=chunk)
        member = Task(self, FORMATS["petri"], QUESTION, sampling=Sampling(1.0, seed=seed)).member
        self.rolls, self.turns = rolls, turns or [1] * len(rolls)
        self.numbers = {member(i).seed: i for i in range(len(rolls))}
        self.decoded: Counter[int] = Counter()
        """Tokens that each rollout was given."""

    def _say(self, prefix: str) -> str:
        roll = self.rolls[self.numbers[self.asked[-1].sampling.seed]]
        if roll is None:
            raise EngineFailure("the engine broke")
        return f"{roll[1]}<|end|>" if "</think>" in prefix else f"{roll[0]}</think>"

    async def stream(self, ask):
        async with aclosing(super().stream(ask)) as chunks:
            async for chunk in chunks:
                number = self.numbers[ask.sampling.seed]
                for _ in range(self.turns[number]):
                    await asyncio.sleep(0)
                self.decoded[number] += len(chunk.ids)
                yield chunk


class Liking:
    """A reward model that scores each rollout by a word in it."""

    name = "liking"

    def __init__(self, scores: dict[str, float], tokens: int = 5) -> None:
        self.scores, self.tokens = scores, tokens
        self.read: list[str] = []

    async def score(self, question, rollouts):
        self.read += rollouts
        found = tuple(next(s for word, s in self.scores.items() if word in text) for text in rollouts)
        return Scored(found, self.tokens * len(rollouts))


@pytest.fixture(scope="session")
def rolled():
    """(method, rolls, reward) -> its generation and the engine; "exact" answers, temperature 1, seed 3."""

    def run(method, rolls, reward=None, *, temperature=1.0, seed=3, kind="exact", **how):
        engine = Rolled(rolls, **how)
        task = Task(engine, FORMATS["petri"], QUESTION, 0, Sampling(temperature, seed=seed), kind, reward)
        return asyncio.run(method.answer(task)), engine

    return run


@pytest.fixture(scope="session")
def liking():
    return Liking
