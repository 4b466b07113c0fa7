"""How slow this machine is, so that a limit on processor time means the same on every one."""

from __future__ import annotations

import time
from functools import cache

USUAL_SECONDS = 0.02
"""What `_count` takes on an ordinary machine of 2025."""


@cache
def slowness() -> float:
    """1 on an ordinary machine or a faster one, 3 on one that is three times slower."""
    return max(1.0, min(_count() for _ in range(5)) / USUAL_SECONDS)


def _count() -> float:
    before = time.thread_time()
    sum(n * n % 7 for n in range(300_000))
    return time.thread_time() - before
