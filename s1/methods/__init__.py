"""Ways to spend compute at test time. Each is a frozen dataclass of settings with `await method.answer(task)`.

A method returns one generation per question and sample. Its `spent` counts every token that went into the
answer, discarded rollouts included, so that sequential and parallel scaling can be compared (section 4).
All methods of a question share the task's engine, which replays what it has already decoded: a vote of 4
costs nothing after a vote of 8.
"""

from __future__ import annotations

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, cast

from s1.config import load_settings
from s1.errors import BadConfig, BadInput, nearest
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy, settings_key
from s1.seeds import seed_of
from s1.types import Engine, Generation, Question, Sampling, Spent


class QuestionTooLong(BadInput):
    """The context has no room for this question under this policy. Other questions may fit."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of some rollouts, higher is better, and how many tokens the reward model read for them."""

    scores: tuple[float, ...]
    tokens: int


class Reward(Protocol):
    """Scores partial or whole rollouts: a process reward model, or a rule."""

    name: str

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        """One score between 0 and 1 for each rollout, given as the text of its thinking and answer so far."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One question and sample, with everything a method may use to answer it."""

    engine: Engine
    fmt: ThinkingFormat
    question: Question
    sample: int = 0
    sampling: Sampling = Sampling()
    """The seed belongs to this question and sample; `member` derives one for each rollout."""
    kind: str = "math"
    """How votes compare answers, as in `s1.grading`."""
    reward: Reward | None = None
    grading: str = "strict"
    """How votes extract answers: the profile of the grading."""

    def member(self, index: int) -> Sampling:
        """The sampling of rollout `index`; rollout 0 draws what budget forcing alone would draw.

        Raises BadConfig without a seed, because a replayed rollout would then equal the first.
        """
        if index == 0:
            return self.sampling
        if self.sampling.seed is None:
            raise BadConfig("Several rollouts need a seed to draw from.", "Give the sampling a seed.")
        return replace(self.sampling, seed=seed_of(self.sampling.seed, index))

    def members(self, n: int) -> list[Task]:
        """This task once for each of `n` rollouts."""
        return [replace(self, sampling=self.member(i)) for i in range(n)]


class Method(ABC):
    """A way to answer a question. Subclasses are frozen dataclasses."""

    __slots__ = ()
    needs_reward: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """The name in a run folder: the method and the settings that differ from its defaults."""
        kind = type(self).__name__
        name = next((n for n, place in METHODS.items() if place.endswith(f":{kind}")), kind)
        return f"{name}:{settings_key(self)}".rstrip(":")

    @property
    @abstractmethod
    def label(self) -> str:
        """The name in tables and plots."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What plots group by."""

    @property
    def draws(self) -> int:
        """The most rollouts it begins for one question."""
        return 1

    @property
    def votes(self) -> bool:
        """Whether the answers of its rollouts decide, which the grading of the run extracts while it decodes."""
        return False

    @property
    def bounds(self) -> Mapping[str, int]:
        """The thinking it asks for, in tokens: `max_thinking`, `min_thinking` or both. Control measures these."""
        return {}

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        """Raise BadConfig, before anything is decoded, where this sampling or reward model cannot work."""
        if self.draws > 1 and sampling.temperature == 0:
            raise BadConfig(
                f"{self.draws} rollouts at temperature 0 are all the same.",
                "Set a temperature above 0 (--temperature 1, as in the paper).",
            )
        if self.needs_reward and reward is None:
            raise BadConfig(f"{self.label!r} needs a reward model.", "Name one with --reward.")

    @abstractmethod
    async def answer(self, task: Task) -> Generation:
        """One generation with `policy` set to `key`. A failing engine is an error on it.

        Raises QuestionTooLong, BadConfig for a policy that fits no question, and what `check` raises.
        """


METHODS = {
    "forcing": "s1.methods.budget_forcing:BudgetForcing",
    "majority": "s1.methods.voting:Majority",
    "weighted": "s1.methods.voting:Weighted",
    "shortest-majority": "s1.methods.voting:ShortestMajority",
    "best-of-n": "s1.methods.voting:BestOfN",
    "short-m": "s1.methods.short_m:ShortM",
    "rebase": "s1.methods.rebase:Rebase",
    "rejection": "s1.methods.rejection:Rejection",
    "token-conditional": "s1.methods.conditional:TokenConditional",
    "step-conditional": "s1.methods.conditional:StepConditional",
    "class-conditional": "s1.methods.conditional:ClassConditional",
}
"""Name -> "module:Class", for commands and recipes."""

REWARDS: dict[str, str] = {"petri": "s1.petri.reward:load"}
"""Name -> "module:function", which takes what follows the colon of a spec."""


def load_method(spec: str, **settings: Any) -> Method:
    """The method that "NAME" or "NAME:FIELD=VALUE,FIELD=VALUE" names.

    `settings` set further fields; those the method does not have are ignored.
    Raises BadConfig for an unknown name, field or value in the spec, suggesting the nearest.
    """
    name, _, rest = spec.partition(":")
    kind = _find(name, METHODS, "method")
    known = {f.name for f in fields(kind)}
    defaults: Method = kind(**{field: value for field, value in settings.items() if field in known})
    return load_settings(defaults, pairs=list(filter(None, rest.split(","))))


def load_reward(spec: str) -> Reward:
    """The reward model that "NAME:REST" names. Raises BadConfig for an unknown name."""
    name, _, rest = spec.partition(":")
    return cast(Reward, _find(name, REWARDS, "reward model")(rest))


def _find(name: str, places: Mapping[str, str], what: str) -> Any:
    if name not in places:
        raise BadConfig(f"Unknown {what} {name!r}.", nearest(name, places))
    return pkgutil.resolve_name(places[name])


def label_with(name: str, policy: BudgetPolicy) -> str:
    """A label: `name`, followed by the policy of the rollouts unless that is the natural one."""
    return name if policy.label == "natural" else f"{name}, {policy.label}"


def spent_on(generations: Sequence[Generation], reward_tokens: int = 0) -> Spent:
    """What these rollouts cost together."""
    each = [
        g.spent or Spent(g.thinking_tokens, g.answer_tokens, failed=int(g.error is not None))
        for g in generations
    ]
    return Spent(
        sum(s.thinking for s in each),
        sum(s.answer for s in each),
        reward_tokens + sum(s.reward for s in each),
        sum(s.rollouts for s in each),
        sum(s.failed for s in each),
    )
