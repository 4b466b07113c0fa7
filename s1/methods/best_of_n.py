"""Best of n: the rollout that the reward model likes most."""

from __future__ import annotations

import time
from dataclasses import dataclass

from s1.errors import EngineFailure
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
from s1.methods.voting import named
from s1.policy import BudgetPolicy
from s1.types import Generation, Sampling


@dataclass(frozen=True, slots=True)
class BestOfN:
    """`n` rollouts, each scored once when it is whole; ties go to the shorter, then to the earlier one."""

    n: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("n", self.n)

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(f"best of {self.n}", self.policy)

    @property
    def kind(self) -> str:
        return "best of n"

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.n, sampling)
        check_reward(self.label, reward)

    async def answer(self, task: Task) -> Generation:
        """The rollout with the highest score. Without a reward model: BadConfig."""
        reward, began = check_reward(self.label, task.reward), time.perf_counter()
        rolled = await rollouts(task, self.n, self.policy)
        found = whole(rolled)
        if not found:
            return broken(task, self.key, rolled, began)
        try:
            scores, read = await scores_of(task, reward, found)
        except EngineFailure as failure:
            return broken(task, self.key, rolled, began, str(failure))
        best = min(range(len(found)), key=lambda i: (-scores[i], found[i].thinking_tokens, i))
        return receipt(task, self.key, found[best], rolled, began, reward=read)
