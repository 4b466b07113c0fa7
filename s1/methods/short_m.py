"""short-m@k (Hassid et al. 2025, arXiv 2505.17813): the first m of k rollouts to finish their thinking.

All k think side by side. "First" is by tokens, not by the clock: a rollout is out as soon as it has thought
longer than the m-th shortest of those that have finished, and its stream is closed there; of two that
thought as long the lower number is first. So the result is the one of k rollouts decoded in step, whatever
the engine's load. The m then answer, and the majority among them wins, ties to the shortest.

Each stopped rollout is counted as it stood when the m-th finished: as many thinking tokens as that one, or its own
where it was shorter. An engine that hands its tokens over in pieces decodes up to one piece more before it hears of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from s1.budget import Forcing, drive
from s1.errors import BadConfig
from s1.methods import Reward, Task, method_key
from s1.methods.budget_forcing import begin
from s1.methods.rollouts import (
    broken,
    check_count,
    check_draws,
    check_seed,
    receipt,
    side_by_side,
    whole,
)
from s1.methods.voting import majority, named, vote
from s1.policy import BudgetPolicy
from s1.types import Generation, Sampling, Spent


class _Halt(Exception):
    """The thinking has ended, or is not wanted any longer."""


class _Race:
    """Who has finished thinking, and so who need not go on."""

    def __init__(self, m: int) -> None:
        self.m = m
        self.finished: list[tuple[int, int]] = []
        """(thinking tokens, number), shortest first."""

    def finish(self, tokens: int, number: int) -> None:
        self.finished = sorted([*self.finished, (tokens, number)])

    def is_out(self, tokens: int) -> bool:
        """Whether a rollout that has thought `tokens` so far cannot be among the first m any more."""
        return self.end is not None and tokens > self.end

    @property
    def first(self) -> list[int]:
        return [number for _, number in self.finished[: self.m]]

    @property
    def end(self) -> int | None:
        """How long the m-th thought; None where fewer than m finished, so that nobody was stopped."""
        return self.finished[self.m - 1][0] if len(self.finished) >= self.m else None


@dataclass(frozen=True, slots=True)
class ShortM:
    """The majority among the `m` of `k` rollouts that finish thinking first."""

    m: int = 1
    k: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("m", self.m)
        if self.m > self.k:
            raise BadConfig(f"short-{self.m}@{self.k} waits for more rollouts than it begins.", "Use m <= k.")

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(f"short-{self.m}@{self.k}", self.policy)

    @property
    def kind(self) -> str:
        return f"short-{self.m}@k"

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.k, sampling)

    async def answer(self, task: Task) -> Generation:
        """The shortest rollout of the winning answer among the first m."""
        self.check(task.sampling, task.reward)
        check_seed(self.k, task.sampling)
        began, race = time.perf_counter(), _Race(self.m)
        members = [replace(task, sampling=task.member(i)) for i in range(self.k)]
        begun = [begin(member, self.policy, self.key) for member in members]
        forcings = [forcing for forcing in begun if isinstance(forcing, Forcing)]
        if len(forcings) < self.k:  # the question does not fit
            return broken(task, self.key, [g for g in begun if isinstance(g, Generation)], began)
        failed = await side_by_side(_think(race, i, f, task) for i, f in enumerate(forcings))
        answers = await side_by_side(
            drive(forcings[i], task.engine, task.question.id, task.sample) for i in race.first
        )
        broke = [g for g in (*answers, *failed) if g is not None and g.error is not None]
        voters = whole(answers)
        if not voters:
            return broken(task, self.key, broke, began)
        chosen = replace(await vote(task, voters, majority), first_token_seconds=None)
        spent = _spent(race, forcings, answers, len(broke))
        return receipt(task, self.key, chosen, [*answers, *broke], began, spent=spent)


async def _think(race: _Race, number: int, forcing: Forcing, task: Task) -> Generation | None:
    """Thinks until its end or until it is out; the receipt of a rollout that the engine broke off."""

    def watch(forcing: Forcing) -> None:
        if forcing.phase != "thinking" or race.is_out(len(forcing.thinking)):
            raise _Halt

    try:
        return await drive(forcing, task.engine, task.question.id, task.sample, watch)
    except _Halt:
        if forcing.phase != "thinking":
            race.finish(len(forcing.thinking), number)
        return None


def _spent(race: _Race, forcings: Sequence[Forcing], answers: Sequence[Generation], failed: int) -> Spent:
    """Thinking of all k up to the moment at which the m-th finished, and the answers of the m."""
    thought = [len(f.thinking) for f in forcings]
    if race.end is not None:
        thought = [min(tokens, race.end) for tokens in thought]
    return Spent(sum(thought), sum(g.answer_tokens for g in answers), 0, len(forcings), failed)
