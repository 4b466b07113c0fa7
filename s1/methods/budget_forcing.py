"""Budget forcing as a method (section 3.1): one request, one policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from s1.budget import Forcing, drive
from s1.errors import BadConfig, BadInput
from s1.methods import Task
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Engine, Generation, Question


@dataclass(frozen=True, slots=True)
class BudgetForcing:
    """The policy, and nothing around it."""

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

    async def answer(self, task: Task) -> Generation:
        return await force(task, self.policy)


async def force(task: Task, policy: BudgetPolicy, key: str | None = None, **changes: Any) -> Generation:
    """One forced request: the question as the user message, thinking under `policy`.

    `changes` replace fields of the task (`sampling`, `question`, `fmt`); `key` names the receipt otherwise
    than the policy. A question that does not fit the context is an error on the receipt, without segments.
    Raises BadConfig for a policy that fits no question.
    """
    task = replace(task, **changes) if changes else task
    key = key or policy.key
    forcing = begin(task, policy, key)
    if isinstance(forcing, Generation):
        return forcing
    generation = await drive(forcing, task.engine, task.question.id, task.sample)
    return generation if key == policy.key else replace(generation, policy=key)


def begin(task: Task, policy: BudgetPolicy, key: str) -> Forcing | Generation:
    """The request before its first token, or the receipt of a question that does not fit the context.

    Raises BadConfig for a policy that fits no question.
    """
    try:
        prompt = task.engine.render([{"role": "user", "content": question_text(task.question)}])
        return Forcing(encode_prompt(task.engine, task.fmt, policy, prompt), task.sampling)
    except (BadInput, BadConfig) as error:
        if isinstance(error, BadConfig) and _fits_nothing(policy, task.engine):
            raise
        return Generation(task.question.id, task.sample, key, (), 0, 0, 0, 0, False, None, error=str(error))


def _fits_nothing(policy: BudgetPolicy, engine: Engine) -> bool:
    return max(policy.max_thinking or 0, policy.min_thinking) >= engine.context


def question_text(question: Question) -> str:
    """The user message: the bare question, with its choices below where it has any (section 3.1)."""
    if not question.choices or question.meta.get("choices_in_text"):
        return question.text
    letters = (f"{chr(ord('A') + i)}) {choice}" for i, choice in enumerate(question.choices))
    return question.text + "\n\n" + "\n".join(letters)
