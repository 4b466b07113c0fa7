"""Rejection sampling (section 4): draw again until the thinking is short enough.

Each try may think one token more than the limit, as in the paper's code, so that thinking of exactly the limit
is seen to end. A try that reaches that token is dropped there, without an answer. Tries run one after another
and all of them count as spent. The paper draws without end; here `tries` is the limit. Where every try was too
long, the generation is the last try, cut and without an answer: grading calls it "cut" and Control counts it as
outside.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from s1.errors import BadConfig
from s1.methods import Method, Task
from s1.methods.budget_forcing import begin
from s1.methods.rollouts import check_count, combined, completed, drive_until
from s1.policy import BudgetPolicy
from s1.types import Generation


@dataclass(frozen=True, slots=True)
class Rejection(Method):
    """The first of at most `tries` draws whose thinking ends by itself within `limit` tokens."""

    kind = "rejection"
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
                "Remove the policy's limits and waits, and set limit.",
            )

    @property
    def label(self) -> str:
        return f"rejection at {self.limit}, {self.tries} tries"

    @property
    def draws(self) -> int:
        return self.tries

    @property
    def bounds(self) -> dict[str, int]:
        return {"max_thinking": self.limit}

    async def answer(self, task: Task) -> Generation:
        self.check(task.sampling, task.reward)
        began, rolled = time.perf_counter(), list[Generation]()
        policy = replace(self.policy, max_thinking=self.limit + 1)
        for member in task.members(self.tries):
            forcing = begin(member, policy)
            found = await drive_until(lambda f: f.cut, forcing, member)
            if found is None:  # too long
                found = forcing.result(task.question.id, task.sample)
                thought = tuple(s for s in found.segments if s.phase in ("prompt", "thinking"))
                found = replace(found, segments=thought, forced_tokens=0, finish="length")
                rolled.append(found)
                continue
            rolled.append(found)
            if found.error is None:
                return combined(self, rolled, found, began)
        rejected = completed(rolled)
        return combined(self, rolled, rejected[-1] if rejected else None, began)
