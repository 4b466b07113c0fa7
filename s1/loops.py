"""Thinking that repeats itself, found on token ids while a model decodes.

`s1.data.clean` looks for loops in the words of finished traces; this is the same idea for ids that are still coming.
"""

from __future__ import annotations

from collections.abc import Sequence

LOOP_TOKENS, LOOP_REPEATS, LOOP_PERIOD = 64, 4, 64
"""A loop: a phrase of at most LOOP_PERIOD tokens, LOOP_REPEATS times in a row, over LOOP_TOKENS tokens or more."""
LOOP_STEP = 16
"""A loop is looked for after every so many tokens of thinking, which costs next to nothing."""


def loop_end(thinking: Sequence[int], ids: Sequence[int], since: int = 0) -> int | None:
    """How many of `ids`, which follow `thinking`, complete a loop; None when they do not.

    Only tokens of the thinking from place `since` on count. How a stream is cut into `ids` changes nothing.
    """
    count = len(thinking)
    tail = [*thinking[max(since, count - LOOP_REPEATS * LOOP_PERIOD) :]]
    for n, token in enumerate(ids, 1):
        tail.append(token)
        if (count + n) % LOOP_STEP == 0 and ends_in_loop(tail):
            return n
    return None


def ends_in_loop(ids: Sequence[int]) -> bool:
    """Whether the last tokens are one phrase again and again."""
    count = len(ids)
    for period in range(1, min(LOOP_PERIOD, count // LOOP_REPEATS) + 1):
        begin = count - max(LOOP_TOKENS, LOOP_REPEATS * period)
        if begin >= 0 and ids[-1] == ids[-1 - period] and ids[begin + period :] == ids[begin:-period]:
            return True
    return False
