"""short-m@k (Hassid et al. 2025, arXiv 2505.17813): the first m of k rollouts to finish their thinking.

All k think side by side. "First" counts tokens, not seconds: a rollout is stopped once it has thought longer
than the m-th shortest of those that have finished. Of two with equal length the lower number is first. So the
result is that of k rollouts decoded in step, whatever the load of the engine. The m then answer, and the
majority among them wins, ties to the shortest.

A stopped rollout counts as many thinking tokens as the m-th to finish, or its own where it was shorter. An engine
that returns tokens in chunks may decode up to one chunk more before it is stopped.
"""

from __future__ import annotations

import bisect
import math
import time
from dataclasses import dataclass, replace

from s1.budget import Forcing
from s1.drive import drive
from s1.errors import BadConfig
from s1.methods import Method, Task, label_with
from s1.methods.budget_forcing import begin
from s1.methods.rollouts import check_count, combined, completed, drive_until, side_by_side
from s1.methods.voting import pick_winner
from s1.policy import BudgetPolicy
from s1.types import Generation, Spent


@dataclass(frozen=True, slots=True)
class ShortM(Method):
    """The majority among the `m` of `k` rollouts that finish thinking first."""

    m: int = 1
    k: int = 8
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("m", self.m)
        if self.m > self.k:
            raise BadConfig(f"short-{self.m}@{self.k} waits for more rollouts than it begins.", "Use m <= k.")

    @property
    def label(self) -> str:
        return label_with(f"short-{self.m}@{self.k}", self.policy)

    @property
    def kind(self) -> str:
        return f"short-{self.m}@k"

    @property
    def votes(self) -> bool:
        return self.m > 1

    @property
    def draws(self) -> int:
        return self.k

    async def answer(self, task: Task) -> Generation:
        self.check(task.sampling, task.reward)
        began, finished = time.perf_counter(), list[tuple[int, int]]()
        forcings = [begin(member, self.policy) for member in task.members(self.k)]

        def longest() -> float:
            """The thinking tokens of the m-th; no limit while fewer than m have finished."""
            return finished[self.m - 1][0] if len(finished) >= self.m else math.inf

        async def think(number: int, forcing: Forcing) -> Generation | None:
            """Think to the end, or until this rollout cannot be among the first m. Returns a failed rollout."""
            found = await drive_until(
                lambda f: f.phase != "thinking" or len(f.thinking) > longest(), forcing, task
            )
            if found is None and forcing.phase != "thinking":
                bisect.insort(finished, (len(forcing.thinking), number))
            return found

        thought = await side_by_side(think(i, f) for i, f in enumerate(forcings))
        answers = await side_by_side(
            drive(forcings[i], task.engine, task.question.id, task.sample) for _, i in finished[: self.m]
        )
        failed = [g for g in (*answers, *thought) if g is not None and g.error is not None]
        voters = completed(answers)
        if not voters:
            return combined(self, failed, None, began)
        thinking = int(sum(min(len(f.thinking), longest()) for f in forcings))
        spent = Spent(thinking, sum(g.answer_tokens for g in answers), 0, self.k, len(failed))
        chosen = replace(await pick_winner(task, voters, "majority"), first_token_seconds=None)
        return combined(self, [*answers, *failed], chosen, began, spent=spent)
