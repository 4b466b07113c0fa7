"""Conditional control (sections 3.2 and 4): the prompt says how much to think, and the model may comply.

| method            | added to the question          | bounds of Control           | with forcing          |
|-------------------|--------------------------------|-----------------------------|-----------------------|
| token-conditional | Think for up to N tokens.      | at most N tokens            | thinking cut at N     |
| step-conditional  | Think for up to N steps.       | at most 100 N tokens        | ends at step 0        |
| class-conditional | Answer after a short (or long) | below (above) the mean of   | max_thinking (min_    |
|                   | amount of thinking. ...        | the natural end in the run  | thinking)             |

Token- and step-conditional control need a model trained on such prompts; the classes work with any model.

Each step begins with a line that counts down, "k steps left". Where the end delimiter of a format also opens
what follows (s1: `<|im_start|>`), that delimiter comes before the line. Thinking then begins with the delimiter
alone, so that the model itself writes how many steps there are. In other formats the line has no delimiter.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from s1.errors import BadConfig
from s1.formats import ThinkingFormat
from s1.methods import Method, Task, label_with
from s1.methods.budget_forcing import BudgetForcing
from s1.methods.rollouts import check_count
from s1.policy import BudgetPolicy
from s1.types import Generation

TOKENS_PER_STEP = 100
"""Tokens that Control allows for each step (section 4.1)."""
CLASSES = {
    "short": "Answer after a short amount of thinking. Do not spend excessive time double-checking your work.",
    "long": "Answer after a long amount of thinking. If you feel like you are finished early, spend the extra "
    "time trying to double-check your work until you are absolutely sure that you have the correct answer.",
}
"""The prompts of the paper (appendix on test-time scaling methods)."""


def with_limit(text: str, count: int, unit: Literal["tokens", "steps"]) -> str:
    """A question that asks for up to `count` tokens or steps of thinking."""
    return f"{text}\n\nThink for up to {count} {unit}."


def step_mark(fmt: ThinkingFormat) -> str:
    """What comes before "k steps left": the delimiter that opens every block, or "" where there is none.

    `fmt` may also be the result of `step_format`, which a model trained on steps carries.
    """
    opening = (s for s in (*fmt.stops, fmt.open) if s and fmt.open.startswith(s) and fmt.close.startswith(s))
    return next(opening, "")


def step_line(fmt: ThinkingFormat, left: int) -> str:
    """The line that opens a step; `left` counts down to 0."""
    return f"{step_mark(fmt)}{left} steps left\n"


def step_format(fmt: ThinkingFormat, forced: bool = False) -> ThinkingFormat:
    """`fmt` for a model that thinks in steps; `forced`: thinking also ends where step 0 begins.

    Differs for s1: thinking ends at the whole of `<|im_start|>answer`, not at its first token, which also
    opens the steps.
    """
    mark, name = step_mark(fmt), f"{fmt.name.removesuffix(' steps')} steps"
    if mark:
        zero = (step_line(fmt, 0).removesuffix(" steps left\n"),) if forced else ()
        return replace(fmt, name=name, open=mark, stops=(*zero, fmt.close.strip()))
    zero = (f"\n{step_line(fmt, 0).strip()}",) if forced else ()
    return replace(fmt, name=name, stops=(*zero, *fmt.stops))


class Conditional(Method):
    """The question with a request after it, under a policy that may force what was requested."""

    __slots__ = ()
    name: ClassVar[str]
    policy: BudgetPolicy

    @property
    @abstractmethod
    def forced(self) -> bool:
        """Whether the request is also enforced."""

    @property
    def kind(self) -> str:
        return f"{self.name}, forced" if self.forced else self.name

    @abstractmethod
    def asked(self, text: str) -> str:
        """The text of a question with the request after it."""

    def forced_policy(self) -> BudgetPolicy:
        """The policy of the request."""
        return self.policy

    def forced_format(self, fmt: ThinkingFormat) -> ThinkingFormat:
        """The thinking format of the request."""
        return fmt

    async def answer(self, task: Task) -> Generation:
        question = replace(task.question, text=self.asked(task.question.text))
        asked = replace(task, question=question, fmt=self.forced_format(task.fmt))
        return replace(await BudgetForcing(self.forced_policy()).answer(asked), policy=self.key)


@dataclass(frozen=True, slots=True)
class TokenConditional(Conditional):
    """Asks for up to `tokens` tokens; `forced` cuts the thinking there."""

    name = "token-conditional"
    tokens: int = 1024
    forced: bool = False
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("tokens", self.tokens)

    @property
    def label(self) -> str:
        return label_with(f"asked {self.tokens} tokens" + ", forced" * self.forced, self.policy)

    @property
    def bounds(self) -> dict[str, int]:
        return {"max_thinking": self.tokens}

    def asked(self, text: str) -> str:
        return with_limit(text, self.tokens, "tokens")

    def forced_policy(self) -> BudgetPolicy:
        if not self.forced:
            return self.policy
        limits = (self.tokens, self.policy.max_thinking)
        return replace(self.policy, max_thinking=min(n for n in limits if n is not None))


@dataclass(frozen=True, slots=True)
class StepConditional(Conditional):
    """Asks for up to `steps` steps; `forced` ends the thinking where step 0 begins."""

    name = "step-conditional"
    steps: int = 16
    forced: bool = False
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        check_count("steps", self.steps)

    @property
    def label(self) -> str:
        return label_with(f"asked {self.steps} steps" + ", forced" * self.forced, self.policy)

    @property
    def bounds(self) -> dict[str, int]:
        return {"max_thinking": TOKENS_PER_STEP * self.steps}

    def asked(self, text: str) -> str:
        return with_limit(text, self.steps, "steps")

    def forced_format(self, fmt: ThinkingFormat) -> ThinkingFormat:
        return step_format(fmt, self.forced)


@dataclass(frozen=True, slots=True)
class ClassConditional(Conditional):
    """Asks for a short or a long amount of thinking; `max_thinking` and `min_thinking` force it.

    Control compares it with the natural end in the same run; without one it has no bound.
    """

    name = "class-conditional"
    amount: Literal["short", "long"] = "short"
    max_thinking: int | None = None
    min_thinking: int = 0
    policy: BudgetPolicy = BudgetPolicy()

    def __post_init__(self) -> None:
        if self.amount not in CLASSES:
            raise BadConfig(f"amount is {self.amount!r}.", f"Use one of: {', '.join(CLASSES)}.")
        self.forced_policy()

    @property
    def label(self) -> str:
        return label_with(f"asked {self.amount}", self.forced_policy())

    @property
    def forced(self) -> bool:
        return self.max_thinking is not None or self.min_thinking > 0

    def asked(self, text: str) -> str:
        return f"{text}\n\n{CLASSES[self.amount]}"

    def forced_policy(self) -> BudgetPolicy:
        policy = replace(self.policy, min_thinking=self.min_thinking) if self.min_thinking else self.policy
        return policy if self.max_thinking is None else replace(policy, max_thinking=self.max_thinking)
