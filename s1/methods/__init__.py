"""Ways to spend compute at test time, each in one file with one signature: `await method.answer(task)`.

A method is a frozen dataclass of its settings with a `key` (unique in a run), a `label` and a `kind` (what plots
show and group by) and `answer`, which takes a `Task` and gives one receipt.
Every token that went into the answer is on it (`Generation.spent`).
Within one task asks go through the task's engine, which remembers: a vote of 4 replays
the first 4 samples of a vote of 8 (section 4 of the paper: sequential against parallel scaling).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, cast, runtime_checkable

from s1.errors import BadConfig, BadInput, nearest
from s1.formats import ThinkingFormat
from s1.policy import settings_key
from s1.seeds import seed_of
from s1.types import Engine, Generation, Question, Sampling, Spent, from_json, to_json


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of some partial rollouts, higher is better, and the tokens that the reward model read for them."""

    scores: tuple[float, ...]
    tokens: int


class Reward(Protocol):
    """Scores partial or whole rollouts: a process reward model, or a rule."""

    name: str

    async def score(self, question: Question, rollouts: Sequence[str]) -> Scored:
        """One score for each rollout (its thinking and answer so far as text), between 0 and 1."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One question and sample, with all that a method may use to answer it."""

    engine: Engine
    fmt: ThinkingFormat
    question: Question
    sample: int = 0
    sampling: Sampling = Sampling()
    """Its seed is this question's and sample's own; `member` gives one for each rollout within."""
    kind: str = "math"
    """How answers are compared, as in `s1.grading`; votes need it."""
    reward: Reward | None = None

    def member(self, index: int) -> Sampling:
        """The sampling of rollout `index`; rollout 0 draws what the plain method would."""
        if index == 0 or self.sampling.seed is None:
            return self.sampling
        return replace(self.sampling, seed=seed_of(self.sampling.seed, index))


class Method(Protocol):
    @property
    def key(self) -> str:
        """What names the method in a run folder."""
        ...

    @property
    def label(self) -> str:
        """What names it in tables and plots."""
        ...

    @property
    def kind(self) -> str: ...

    async def answer(self, task: Task) -> Generation:
        """One receipt, with `policy` set to `key`. A question that does not fit is an error on it."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A method that cannot run under every sampling, or not without a reward model."""

    def check(self, sampling: Sampling, reward: Reward | None) -> None:
        """Raises BadConfig before anything is decoded."""
        ...


METHODS = {
    "forcing": "s1.methods.budget_forcing:BudgetForcing",
    "majority": "s1.methods.voting:Majority",
    "weighted": "s1.methods.voting:Weighted",
    "shortest-majority": "s1.methods.voting:ShortestMajority",
    "best-of-n": "s1.methods.best_of_n:BestOfN",
    "short-m": "s1.methods.short_m:ShortM",
    "rebase": "s1.methods.rebase:Rebase",
    "rejection": "s1.methods.rejection:Rejection",
    "token-conditional": "s1.methods.conditional:TokenConditional",
    "step-conditional": "s1.methods.conditional:StepConditional",
    "class-conditional": "s1.methods.conditional:ClassConditional",
}
"""Name -> "module:Class", for commands and recipes."""

REWARDS: dict[str, str] = {"petri": "s1.petri.reward:load"}
"""Name -> "module:function" that takes what follows the colon of a spec."""


def load_method(spec: str, **settings: Any) -> Method:
    """The method that "NAME" or "NAME:FIELD=VALUE,FIELD=VALUE" names; `settings` are fields too.

    Raises BadConfig for an unknown name, field or value, naming the nearest one.
    """
    from s1.config import parse_value

    name, _, rest = spec.partition(":")
    if name not in METHODS:
        raise BadConfig(f"Unknown method {name!r}.", nearest(name, METHODS))
    module, _, attribute = METHODS[name].partition(":")
    kind = getattr(importlib.import_module(module), attribute)
    known = [f.name for f in fields(kind)]
    values = dict(settings)
    for pair in filter(None, rest.split(",")):
        field, equals, value = pair.partition("=")
        if not equals or field not in known:
            raise BadConfig(f"The method {name} has no setting {pair!r}.", nearest(field, known))
        values[field] = parse_value(value)
    values = {field: value for field, value in values.items() if field in known}
    try:
        return cast(Method, from_json(kind, to_json(values)))
    except BadInput as error:
        raise BadConfig(error.message, error.hint) from None


def load_reward(spec: str) -> Reward:
    """The reward model that "NAME:REST" names. Raises BadConfig for an unknown name."""
    name, _, rest = spec.partition(":")
    if name not in REWARDS:
        raise BadConfig(f"Unknown reward model {name!r}.", nearest(name, REWARDS))
    module, _, attribute = REWARDS[name].partition(":")
    return cast(Reward, getattr(importlib.import_module(module), attribute)(rest))


def method_key(method: Any) -> str:
    """The name of a method and the settings that differ from its defaults, as `load_method` takes them."""
    name = next(n for n, place in METHODS.items() if place.endswith(f":{type(method).__name__}"))
    return f"{name}:{settings_key(method)}".rstrip(":")


def spent_on(generations: Sequence[Generation], reward: int = 0) -> Spent:
    """What these rollouts cost together."""
    each = [
        g.spent or Spent(g.thinking_tokens, g.answer_tokens, failed=int(g.error is not None))
        for g in generations
    ]
    return Spent(
        sum(s.thinking for s in each),
        sum(s.answer for s in each),
        reward + sum(s.reward for s in each),
        sum(s.rollouts for s in each),
        sum(s.failed for s in each),
    )
