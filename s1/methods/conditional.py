"""Conditional control (sections 3.2 and 4): the prompt says how much to think, the model may obey.

| method            | added to the question          | bounds of Control           | with forcing          |
|-------------------|--------------------------------|-----------------------------|-----------------------|
| token-conditional | Think for up to N tokens.      | at most N tokens            | thinking cut at N     |
| step-conditional  | Think for up to N steps.       | at most 100 N tokens        | ends at step 0        |
| class-conditional | Answer after a short (or long) | below (above) the mean of   | max_thinking (min_    |
|                   | amount of thinking. ...        | the natural end in the run  | thinking)             |

Token- and step-conditional control need a model trained on such prompts; the classes are for the plain one.

Steps: each begins with a line that counts down, "k steps left". Where the end delimiter of a format also opens
what follows (s1: `<|im_start|>`), that delimiter stands before the line, and thinking begins with it alone, so that
the model itself writes how many steps there are. Elsewhere the line stands by itself, between newlines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from s1.errors import BadConfig
from s1.formats import ThinkingFormat
from s1.methods import Task, method_key
from s1.methods.budget_forcing import force, question_text
from s1.methods.rollouts import check_count
from s1.methods.voting import named
from s1.policy import BudgetPolicy
from s1.types import Generation, Question

TOKENS_PER_STEP = 100
"""What a step counts when Control is measured (section 4.1)."""
CLASSES = {
    "short": "Answer after a short amount of thinking. Do not spend excessive time double-checking your work.",
    "long": "Answer after a long amount of thinking. If you feel like you are finished early, spend the extra "
    "time trying to double-check your work until you are absolutely sure that you have the correct answer.",
}
"""The prompts of the paper (appendix on test-time scaling methods)."""


def asked_tokens(text: str, tokens: int) -> str:
    """A question that asks for up to `tokens` tokens of thinking."""
    return f"{text}\n\nThink for up to {tokens} tokens."


def asked_steps(text: str, steps: int) -> str:
    """A question that asks for up to `steps` steps of thinking."""
    return f"{text}\n\nThink for up to {steps} steps."


def asked_class(text: str, amount: str) -> str:
    """A question that asks for a "short" or a "long" amount of thinking."""
    return f"{text}\n\n{CLASSES[amount]}"


def step_mark(fmt: ThinkingFormat) -> str:
    """What stands before "k steps left": the delimiter that opens every block, or "" where there is none.

    `fmt` may be the format of steps itself, as a model trained on steps carries it.
    """
    opening = (s for s in (*fmt.stops, fmt.open) if s and fmt.open.startswith(s) and fmt.close.startswith(s))
    return next(opening, "")


def step_line(fmt: ThinkingFormat, left: int) -> str:
    """What opens a step, `left` counting down to 0."""
    return f"{step_mark(fmt)}{left} steps left\n"


def step_format(fmt: ThinkingFormat, forced: bool = False) -> ThinkingFormat:
    """`fmt` for a model that thinks in steps; `forced`: thinking also ends where step 0 begins.

    Differs for s1: thinking ends at the whole of `<|im_start|>answer` and not at its first token, which
    opens the steps too.
    """
    mark, name = step_mark(fmt), f"{fmt.name.removesuffix(' steps')} steps"
    if mark:
        zero = (step_line(fmt, 0).removesuffix(" steps left\n"),) if forced else ()
        return replace(fmt, name=name, open=mark, stops=(*zero, fmt.close.strip()))
    zero = (f"\n{step_line(fmt, 0).strip()}",) if forced else ()
    return replace(fmt, name=name, stops=(*zero, *fmt.stops))


@dataclass(frozen=True, slots=True)
class TokenConditional:
    """Asks for up to `tokens` tokens; with `forced`, thinking is cut there."""

    tokens: int = 1024
    forced: bool = False
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(_forced(f"asked {self.tokens} tokens", self.forced), self.policy)

    @property
    def kind(self) -> str:
        return _forced("token-conditional", self.forced)

    @property
    def bounds(self) -> dict[str, int]:
        return {"max_thinking": self.tokens}

    async def answer(self, task: Task) -> Generation:
        policy = self.policy
        if self.forced:
            limits = (self.tokens, policy.max_thinking)
            policy = replace(policy, max_thinking=min(n for n in limits if n is not None))
        question = _asking(task.question, lambda text: asked_tokens(text, self.tokens))
        return await force(task, policy, self.key, question=question)


@dataclass(frozen=True, slots=True)
class StepConditional:
    """Asks for up to `steps` steps; with `forced`, thinking ends where step 0 begins."""

    steps: int = 16
    forced: bool = False
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(_forced(f"asked {self.steps} steps", self.forced), self.policy)

    @property
    def kind(self) -> str:
        return _forced("step-conditional", self.forced)

    @property
    def bounds(self) -> dict[str, int]:
        return {"max_thinking": TOKENS_PER_STEP * self.steps}

    async def answer(self, task: Task) -> Generation:
        question = _asking(task.question, lambda text: asked_steps(text, self.steps))
        fmt = step_format(task.fmt, self.forced)
        return await force(task, self.policy, self.key, question=question, fmt=fmt)


@dataclass(frozen=True, slots=True)
class ClassConditional:
    """Asks for a short or a long amount of thinking; the forcing is `max_thinking` and `min_thinking`.

    Control is measured against the natural end in the same run; without one it has no bound.
    """

    amount: Literal["short", "long"] = "short"
    max_thinking: int | None = None
    min_thinking: int = 0
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        if self.amount not in CLASSES:
            raise BadConfig(f"amount is {self.amount!r}.", f"Use one of: {', '.join(CLASSES)}.")
        self._forced()

    @property
    def key(self) -> str:
        return method_key(self)

    @property
    def label(self) -> str:
        return named(f"asked {self.amount}", self._forced())

    @property
    def kind(self) -> str:
        return _forced("class-conditional", self.max_thinking is not None or self.min_thinking > 0)

    def _forced(self) -> BudgetPolicy:
        changes: dict[str, Any] = {}
        if self.max_thinking is not None:
            changes["max_thinking"] = self.max_thinking
        if self.min_thinking:
            changes["min_thinking"] = self.min_thinking
        return replace(self.policy, **changes)

    async def answer(self, task: Task) -> Generation:
        question = _asking(task.question, lambda text: asked_class(text, self.amount))
        return await force(task, self._forced(), self.key, question=question)


def _asking(question: Question, ask: Callable[[str], str]) -> Question:
    """The question with the request at its very end, after its choices."""
    return replace(question, text=ask(question_text(question)), choices=())


def _forced(name: str, forced: bool) -> str:
    return f"{name}, forced" if forced else name
