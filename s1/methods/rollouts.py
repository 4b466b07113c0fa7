"""What methods with several rollouts share: running them together, scoring them, and counting their cost."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from s1.budget import Forcing
from s1.drive import drive
from s1.errors import BadConfig, EngineFailure, first_error
from s1.methods import Method, Task, spent_on
from s1.types import Generation, Rollout, Spent

T = TypeVar("T")


def check_count(name: str, value: int) -> None:
    """Raise BadConfig for a number below 1."""
    if value < 1:
        raise BadConfig(f"{name} is {value}.", "Use 1 or more.")


async def side_by_side(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. When one coroutine raises, the others are cancelled and its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as errors:
        raise first_error(errors) from None
    return [task.result() for task in tasks]


class _Enough(Exception):
    """No more of this request is wanted."""


async def drive_until(
    is_enough: Callable[[Forcing], bool], forcing: Forcing, task: Task
) -> Generation | None:
    """Drive a request and close its stream as soon as `is_enough`, asked after every chunk.

    Returns None then, and the generation of a request that ended or failed before.
    """

    def watch(forcing: Forcing) -> None:
        if is_enough(forcing):
            raise _Enough

    try:
        return await drive(forcing, task.engine, task.question.id, task.sample, watch)
    except _Enough:
        return None


async def scores_of(task: Task, generations: Sequence[Generation]) -> tuple[list[float], int]:
    """The reward model's score of each rollout, and the tokens that it read.

    It reads the thinking and the answer, with the delimiter between them.
    Raises EngineFailure when the reward model fails or its scores cannot be compared.
    """
    assert task.reward is not None, "Method.check refuses a task without a reward model"
    texts = ["".join(s.text for s in g.segments if s.phase != "prompt") for g in generations]
    found = await task.reward.score(task.question, texts)
    if len(found.scores) != len(texts) or not all(map(math.isfinite, found.scores)):
        raise EngineFailure(
            f"The reward model {task.reward.name} gave {list(found.scores)} for {len(texts)} rollouts."
        )
    return list(found.scores), found.tokens


def completed(generations: Iterable[Generation]) -> list[Generation]:
    """The rollouts that did not fail."""
    return [g for g in generations if g.error is None]


def combined(
    method: Method,
    rolled: Sequence[Generation],
    chosen: Generation | None,
    began: float,
    *,
    error: str | None = None,
    spent: Spent | None = None,
    reward_tokens: int = 0,
) -> Generation:
    """The generation of a method: the chosen rollout, with what all of `rolled` cost (or `spent`).

    chosen: None where there is no answer; then the first rollout, with `error` or that all rollouts failed.
    began: `time.perf_counter()` when the method began.
    """
    if chosen is None and error is None:
        error = f"All {len(rolled)} rollouts failed; the first: {rolled[0].error}"
    rollouts = [
        Rollout(
            tuple(replace(s, token_ids=()) for s in g.segments if s.phase != "prompt"),
            g.thinking_tokens, g.answer_tokens, g.finish, g is chosen, g.error,
        )
        for g in rolled
    ]  # fmt: skip
    return replace(
        chosen or rolled[0],
        policy=method.key,
        rollouts=tuple(rollouts) if len(rollouts) > 1 else (),
        exact=all(g.exact for g in rolled),
        seconds=time.perf_counter() - began,
        spent=spent or spent_on(rolled, reward_tokens),
        error=error,
    )
