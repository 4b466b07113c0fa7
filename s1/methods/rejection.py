"""Rejection sampling (section 4): draw again until the thinking is short enough.

The limit is on thinking tokens. A try is asked for one token more than the limit, as in the paper's code, so
that a thinking of exactly the limit is seen to end; what reaches that token is thrown away there, without an
answer. Tries follow one another, and each is paid for. The paper draws without end; here `tries` is the cap.
A question on which all tries were too long has no answer: its receipt is the last try, cut, with nothing
after the thinking, so grading calls it "cut" and Control counts it as outside.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from s1.budget import Forcing, drive
from s1.errors import BadConfig
from s1.methods import Reward, Task, method_key
from s1.methods.budget_forcing import begin
from s1.methods.rollouts import broken, check_count, check_draws, check_seed, receipt
from s1.policy import BudgetPolicy
from s1.types import Generation, Sampling


class _TooLong(Exception):
    pass


@dataclass(frozen=True, slots=True)
class Rejection:
    """The first of at most `tries` draws whose thinking ends by itself within `limit` tokens."""

    limit: int = 4096
    tries: int = 16
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("tries", self.tries)
        if self.limit < 0:
            raise BadConfig(f"limit is {self.limit}.", "Use 0 or more tokens.")
        if self.policy.label != "natural":
            raise BadConfig(
                f"Rejection sampling keeps thinking that ends by itself; the policy is {self.policy.label!r}.",
                "Leave out the limits and waits of the policy and set limit.",
            )

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return f"rejection at {self.limit}, {self.tries} tries"

    @property
    def kind(self) -> str:
        return "rejection"

    @property
    def bounds(self) -> dict[str, int]:
        return {"max_thinking": self.limit}

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        check_draws(self.tries, sampling)

    async def answer(self, task: Task) -> Generation:
        """The first try that is short enough, or the last one without an answer."""
        self.check(task.sampling, task.reward)
        check_seed(self.tries, task.sampling)
        began, rolled = time.perf_counter(), list[Generation]()
        for i in range(self.tries):
            rolled.append(await self._attempt(replace(task, sampling=task.member(i))))
            if rolled[-1].error is None and rolled[-1].finish is not None:
                return receipt(task, self.key, rolled[-1], rolled, began)
            if not rolled[-1].segments:  # the question does not fit; no draw will change that
                break
        rejected = [g for g in rolled if g.error is None]
        if not rejected:
            return broken(task, self.key, rolled, began)
        return receipt(task, self.key, replace(rejected[-1], finish="length"), rolled, began)

    async def _attempt(self, task: Task) -> Generation:
        """One try; one that was too long has no answer segments and no finish."""
        forcing = begin(task, replace(self.policy, max_thinking=self.limit + 1), self.key)
        if isinstance(forcing, Generation):
            return forcing
        began = time.perf_counter()
        try:
            return await drive(forcing, task.engine, task.question.id, task.sample, _stop_when_cut)
        except _TooLong:
            found = forcing.result(task.question.id, task.sample, time.perf_counter() - began)
            thought = tuple(s for s in found.segments if s.phase != "answer")
            return replace(found, segments=thought, forced_tokens=0)


def _stop_when_cut(forcing: Forcing) -> None:
    if forcing.cut:
        raise _TooLong
