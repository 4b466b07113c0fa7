"""Votes over rollouts: majority, weighted by a reward model, and weighted toward short chains.

Answers that say the same are one candidate; a rollout without an answer does not vote. The candidate with the
most weight wins; a tie goes to the one whose shortest rollout thought least, then to the more frequent
spelling, then to the alphabet, so the order of the rollouts never matters. The receipt is the shortest
rollout of the winner; where nobody has an answer, the shortest of all.
Differs: the paper's code (maj@k, section 4) gives ties to the answer seen first.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from s1.errors import EngineFailure
from s1.grading import committed, equivalent
from s1.grading.equivalence import LONGEST, letters
from s1.grading.normal import clean, number, squeeze
from s1.grading.structure import words_of
from s1.methods import Reward, Task, method_key
from s1.methods.rollouts import (
    broken,
    check_count,
    check_draws,
    check_reward,
    receipt,
    rollouts,
    scores_of,
    whole,
)
from s1.policy import BudgetPolicy
from s1.types import Generation, Sampling

COMPARE_SECONDS = 1.0
"""Processor time for one comparison of two answers that are spelled differently; then they count as two."""


class Vote(NamedTuple):
    """What one rollout says, how long it thought (tokens), and its weight in a weighted vote."""

    answer: str | None
    length: int = 0
    weight: float = 1.0


Rule = Callable[[Sequence[Vote]], float]
"""What the votes for one candidate weigh together."""


def majority(votes: Sequence[Vote]) -> float:
    """Each vote counts one."""
    return len(votes)


def weighted(votes: Sequence[Vote]) -> float:
    """The sum of their weights, exactly rounded, so that their order does not show."""
    return math.fsum(v.weight for v in votes)


def shortest_majority(votes: Sequence[Vote]) -> float:
    """Votes divided by the log of their mean length (Zeng et al. 2025, arXiv 2502.12215, section 5).

    The length is in thinking tokens, and at least 2, so that the log is above zero.
    """
    return len(votes) / math.log(max(2.0, sum(v.length for v in votes) / len(votes)))


def winners(votes: Sequence[Vote], kind: str = "math", rule: Rule = majority) -> list[int]:
    """The positions of the votes for the winning candidate, shortest first; none where nobody has an answer."""

    def order(group: list[int]) -> tuple[float, int]:
        return -rule([votes[i] for i in group]), min(votes[i].length for i in group)

    groups = candidates([v.answer for v in votes], kind)
    if not groups:
        return []
    won = min(groups, key=order)
    return sorted(won, key=lambda i: (votes[i].length, i))


def candidates(answers: Sequence[str | None], kind: str = "math") -> list[list[int]]:
    """The positions of answers that say the same under `kind` (`s1.grading.KINDS`); None is nobody's.

    Equal spellings first. Then each spelling, the most frequent first and else in order of the alphabet, joins
    the first candidate that it is equivalent to in either direction, or becomes one; the candidates stand in
    that order. So the order of `answers` decides nothing.
    """
    spellings: dict[str, list[int]] = defaultdict(list)
    for i, answer in enumerate(answers):
        if answer is not None:
            spellings[canonical(answer, kind)].append(i)
    found: list[tuple[str, list[int]]] = []
    for spelling in sorted(spellings, key=lambda s: (-len(spellings[s]), s)):
        members = spellings[spelling]
        text = min((answers[i] or "" for i in members), key=lambda a: (len(a), a))
        for first, group in found:
            if _same(first, text, kind):
                group += members
                break
        else:
            found.append((text, members))
    return [group for _, group in found]


def canonical(answer: str, kind: str) -> str:
    """A spelling that equivalent answers often share and others never do."""
    bare = " ".join(answer.split())
    if kind == "exact" or len(answer) > LONGEST:
        return bare
    if kind == "choice":
        return letters(answer) or bare
    if kind == "text":
        return words_of(answer) or bare
    cleaned = clean(answer)
    if kind == "integer" and (value := number(cleaned)) is not None:
        return str(value.value)
    return squeeze(cleaned) or bare


def _same(one: str, other: str, kind: str) -> bool:
    return equivalent(one, other, kind, COMPARE_SECONDS) or equivalent(other, one, kind, COMPARE_SECONDS)


async def vote(
    task: Task, generations: Sequence[Generation], rule: Rule, weights: Sequence[float] = ()
) -> Generation:
    """The rollout that the vote returns; `generations` hold at least one and no failed one."""
    votes = [
        Vote(committed(g, task.question, task.kind), g.thinking_tokens, weights[i] if weights else 1.0)
        for i, g in enumerate(generations)
    ]
    won = await asyncio.to_thread(winners, votes, task.kind, rule)  # comparing may take seconds
    return generations[won[0]] if won else min(generations, key=lambda g: g.thinking_tokens)


def named(name: str, policy: BudgetPolicy) -> str:
    """`name`, with the policy of the rollouts where that is not the natural one."""
    return name if policy.label == "natural" else f"{name}, {policy.label}"


@dataclass(frozen=True, slots=True)
class Majority:
    """The most frequent answer of `n` rollouts (self-consistency; the paper's parallel baseline, section 4)."""

    n: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("n", self.n)

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(f"majority of {self.n}", self.policy)

    @property
    def kind(self) -> str:
        return "majority"

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.n, sampling)

    async def answer(self, task: Task) -> Generation:
        """The shortest rollout of the winning answer."""
        return await _answer(self.key, self.n, self.policy, majority, task)


@dataclass(frozen=True, slots=True)
class ShortestMajority:
    """As `Majority`, with votes weighted toward short chains."""

    n: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("n", self.n)

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(f"shortest majority of {self.n}", self.policy)

    @property
    def kind(self) -> str:
        return "shortest majority"

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.n, sampling)

    async def answer(self, task: Task) -> Generation:
        """The shortest rollout of the winning answer."""
        return await _answer(self.key, self.n, self.policy, shortest_majority, task)


@dataclass(frozen=True, slots=True)
class Weighted:
    """As `Majority`, each vote weighing what the reward model gives its rollout."""

    n: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("n", self.n)

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(f"weighted of {self.n}", self.policy)

    @property
    def kind(self) -> str:
        return "weighted"

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.n, sampling)
        check_reward(self.label, reward)

    async def answer(self, task: Task) -> Generation:
        """The shortest rollout of the winning answer. Without a reward model: BadConfig."""
        reward = check_reward(self.label, task.reward)
        return await _answer(self.key, self.n, self.policy, weighted, task, reward)


async def _answer(
    label: str, n: int, policy: BudgetPolicy, rule: Rule, task: Task, reward: Reward | None = None
) -> Generation:
    began = time.perf_counter()
    rolled = await rollouts(task, n, policy)
    voters = whole(rolled)
    if not voters:
        return broken(task, label, rolled, began)
    weights, read = list[float](), 0
    if reward is not None:
        try:
            weights, read = await scores_of(task, reward, voters)
        except EngineFailure as failure:
            return broken(task, label, rolled, began, str(failure))
    chosen = await vote(task, voters, rule, weights)
    return receipt(task, label, chosen, rolled, began, reward=read)
