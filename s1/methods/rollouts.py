"""Several rollouts of one question: begun side by side, scored, and made into one receipt."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from s1.errors import BadConfig, EngineFailure, first_error
from s1.methods import Reward, Task, spent_on
from s1.methods.budget_forcing import force
from s1.policy import BudgetPolicy
from s1.types import Generation, Sampling, Spent

T = TypeVar("T")


async def side_by_side(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each of them returns, in order. When one raises, the others are cancelled and its error raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


async def rollouts(task: Task, n: int, policy: BudgetPolicy) -> list[Generation]:
    """`n` forced requests side by side; number i draws with the seed of `task.member(i)`.

    Raises BadConfig where they would all draw the same.
    """
    check_draws(n, task.sampling)
    check_seed(n, task.sampling)
    return await side_by_side(force(task, policy, sampling=task.member(i)) for i in range(n))


def check_draws(n: int, sampling: Sampling) -> None:
    """Raises BadConfig for several rollouts at temperature 0."""
    if n > 1 and sampling.temperature == 0:
        raise BadConfig(
            f"{n} rollouts at temperature 0 are the same one.",
            "Set a temperature above 0 (--temperature 1, as in the paper).",
        )


def check_seed(n: int, sampling: Sampling) -> None:
    """Raises BadConfig for several rollouts without a seed: an engine that remembers would repeat the first."""
    if n > 1 and sampling.seed is None:
        raise BadConfig("Several rollouts need a seed to draw from.", "Give the sampling a seed.")


def check_count(name: str, value: int) -> None:
    """Raises BadConfig for a number below 1."""
    if value < 1:
        raise BadConfig(f"{name} is {value}.", "Use 1 or more.")


def check_reward(label: str, reward: Reward | None) -> Reward:
    """The reward model. Raises BadConfig where there is none."""
    if reward is None:
        raise BadConfig(f"{label!r} needs a reward model.", "Name one with --reward.")
    return reward


async def scores_of(task: Task, reward: Reward, generations: Sequence[Generation]) -> tuple[list[float], int]:
    """A score for each rollout, and the tokens that the reward model read.

    Raises EngineFailure when the reward model breaks or its scores cannot be compared.
    """
    found = await reward.score(task.question, [said(g) for g in generations])
    if len(found.scores) != len(generations) or not all(map(math.isfinite, found.scores)):
        raise EngineFailure(
            f"The reward model {reward.name} gave {list(found.scores)} for {len(generations)} rollouts."
        )
    return list(found.scores), found.tokens


def said(generation: Generation) -> str:
    """A rollout as its reward model reads it: thinking and answer, with what was forced between them."""
    return generation.text_of("thinking") + generation.text_of("answer")


def whole(generations: Iterable[Generation]) -> list[Generation]:
    """Those that did not break off."""
    return [g for g in generations if g.error is None]


def receipt(
    task: Task,
    label: str,
    chosen: Generation,
    rolled: Sequence[Generation],
    began: float,
    *,
    spent: Spent | None = None,
    reward: int = 0,
) -> Generation:
    """The chosen rollout as the receipt of the method, with what all of `rolled` cost (or `spent`).

    Seconds are those of the method, from `began` (perf_counter) on.
    """
    return replace(
        chosen,
        policy=label,
        sample=task.sample,
        exact=all(g.exact for g in rolled),
        seconds=time.perf_counter() - began,
        spent=spent or spent_on(rolled, reward),
    )


def broken(
    task: Task, label: str, rolled: Sequence[Generation], began: float, why: str = "", *, reward: int = 0
) -> Generation:
    """The receipt of a method that has no answer because all rollouts failed, or of a broken reward model."""
    why = why or f"All {len(rolled)} rollouts failed; the first: {rolled[0].error}"
    return replace(receipt(task, label, rolled[0], rolled, began, reward=reward), error=why)
