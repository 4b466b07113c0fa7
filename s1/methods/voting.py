"""One of n rollouts run side by side (section 4: parallel scaling): votes, and best of n.

Equivalent answers are one candidate; a rollout without an answer does not vote. The candidate with the most
weight wins. A tie goes to the candidate whose shortest rollout thought least, then to the more frequent
spelling, then to the alphabet, so that the order of the rollouts never matters. The method returns the
shortest rollout of the winner, or the shortest of all where no rollout has an answer.
Differs: the paper's code (maj@k, section 4) gives ties to the answer seen first.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from s1.errors import EngineFailure
from s1.grading import candidates, committed
from s1.methods import Method, Task, label_with
from s1.methods.budget_forcing import BudgetForcing
from s1.methods.rollouts import check_count, combined, completed, scores_of, side_by_side
from s1.policy import BudgetPolicy
from s1.types import Generation


class Vote(NamedTuple):
    """The answer of one rollout, its thinking tokens, and its weight in a weighted vote."""

    answer: str | None
    length: int = 0
    weight: float = 1.0


Rule = Callable[[Sequence[Vote]], float]
"""The weight of all votes for one candidate."""


def majority(votes: Sequence[Vote]) -> float:
    """Each vote counts as one."""
    return len(votes)


def weighted(votes: Sequence[Vote]) -> float:
    """The sum of the weights, exactly rounded, so that it does not depend on their order."""
    return math.fsum(v.weight for v in votes)


def shortest_majority(votes: Sequence[Vote]) -> float:
    """Votes divided by the log of their mean length (Zeng et al. 2025, arXiv 2502.12215, section 5).

    The length is in thinking tokens and at least 2, so that the log is positive.
    """
    return len(votes) / math.log(max(2.0, sum(v.length for v in votes) / len(votes)))


def winners(votes: Sequence[Vote], kind: str = "math", rule: Rule = majority) -> list[int]:
    """The positions of the votes for the winning candidate, shortest first; empty where no vote has an answer."""

    def order(group: list[int]) -> tuple[float, int]:
        return -rule([votes[i] for i in group]), min(votes[i].length for i in group)

    groups = candidates([v.answer for v in votes], kind)
    if not groups:
        return []
    won = min(groups, key=order)
    return sorted(won, key=lambda i: (votes[i].length, i))


ChosenBy = Literal["majority", "weighted", "shortest majority", "best"]
RULES: Mapping[ChosenBy, Rule] = {
    "majority": majority,
    "weighted": weighted,
    "shortest majority": shortest_majority,
}


async def pick_winner(
    task: Task, generations: Sequence[Generation], by: ChosenBy, scores: Sequence[float] = ()
) -> Generation:
    """The rollout that wins. `generations` holds at least one, and none that failed.

    by: one of RULES, or "best": the highest score, ties to the shorter, then to the earlier.
    scores: one for each rollout; majorities need none.
    """
    if by == "best":
        ranked = zip(scores, generations, strict=True)
        return min(ranked, key=lambda pair: (-pair[0], pair[1].thinking_tokens))[1]
    weights = scores or [1.0] * len(generations)
    votes = [
        Vote(committed(g, task.question, task.kind, profile=task.grading), g.thinking_tokens, weight)
        for g, weight in zip(generations, weights, strict=True)
    ]
    won = await asyncio.to_thread(winners, votes, task.kind, RULES[by])  # comparing may take seconds
    return generations[won[0]] if won else min(generations, key=lambda g: g.thinking_tokens)


@dataclass(frozen=True, slots=True)
class Parallel(Method):
    """`n` rollouts of one policy, side by side; `by` decides which of them is returned."""

    by: ClassVar[ChosenBy]
    n: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("n", self.n)

    @property
    def label(self) -> str:
        return label_with(f"{self.by} of {self.n}", self.policy)

    @property
    def draws(self) -> int:
        return self.n

    @property
    def votes(self) -> bool:
        return self.by != "best"

    async def answer(self, task: Task) -> Generation:
        self.check(task.sampling, task.reward)
        began, plain = time.perf_counter(), BudgetForcing(self.policy)
        rolled = await side_by_side(plain.answer(member) for member in task.members(self.n))
        voters, scores, read = completed(rolled), list[float](), 0
        if not voters:
            return combined(self, rolled, None, began)
        try:
            if self.needs_reward:
                scores, read = await scores_of(task, voters)
        except EngineFailure as failure:
            return combined(self, rolled, None, began, error=str(failure))
        chosen = await pick_winner(task, voters, self.by, scores)
        return combined(self, rolled, chosen, began, reward_tokens=read)


class Majority(Parallel):
    """The most frequent answer (self-consistency; the paper's parallel baseline, section 4)."""

    by = kind = "majority"


class ShortestMajority(Parallel):
    """A majority weighted toward short thinking."""

    by = kind = "shortest majority"


class Weighted(Parallel):
    """A vote in which each rollout weighs as much as its score from the reward model."""

    by = kind = "weighted"
    needs_reward = True


class BestOfN(Parallel):
    """The rollout with the highest score from the reward model; ties to the shorter, then to the earlier."""

    by, kind = "best", "best of n"
    needs_reward = True
