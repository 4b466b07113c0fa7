"""Budget forcing as a method (section 3.1): one request under one policy."""

from __future__ import annotations

from dataclasses import dataclass

from s1.budget import Forcing
from s1.drive import drive
from s1.errors import BadConfig, BadInput
from s1.methods import Method, QuestionTooLong, Task
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Generation


@dataclass(frozen=True, slots=True)
class BudgetForcing(Method):
    """A policy as a method, with the policy's own key, label and kind."""

    policy: BudgetPolicy = BudgetPolicy()

    @property
    def key(self) -> str:
        return self.policy.key

    @property
    def label(self) -> str:
        return self.policy.label

    @property
    def kind(self) -> str:
        return self.policy.kind

    @property
    def bounds(self) -> dict[str, int]:
        limits = {"max_thinking": self.policy.max_thinking, "min_thinking": self.policy.min_thinking or None}
        return {name: limit for name, limit in limits.items() if limit is not None}

    async def answer(self, task: Task) -> Generation:
        return await drive(begin(task, self.policy), task.engine, task.question.id, task.sample)


def begin(task: Task, policy: BudgetPolicy) -> Forcing:
    """The request before its first token: the question as the user message, thinking under `policy`.

    Raises QuestionTooLong, or BadConfig for a policy that fits no question.
    """
    prompt = task.engine.render([{"role": "user", "content": task.question.text}])
    try:
        return Forcing(encode_prompt(task.engine, task.fmt, policy, prompt), task.sampling)
    except (BadInput, BadConfig) as error:
        least = max(policy.max_thinking or 0, policy.min_thinking)
        if isinstance(error, BadConfig) and least >= task.engine.context:
            raise
        raise QuestionTooLong(error.message, error.hint) from None
