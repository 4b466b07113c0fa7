"""When a request is worth repeating, and after how long. Pure functions."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from datetime import UTC

LONGEST_BACKOFF_SECONDS = 60.0
BUSY = frozenset({408, 409, 425, 429})
PERMANENT = frozenset({501, 505})
"""Not implemented, HTTP version not supported: the same request fails every time."""


def may_be_repeated(status: int) -> bool:
    """Whether the same request may succeed later: the server is busy, or it or a proxy failed inside (5xx)."""
    return status in BUSY or (status >= 500 and status not in PERMANENT)


def wanted_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait, from `retry-after-ms` or `retry-after` (a number or a date).

    now: seconds since the epoch. Header names are in lower case. None where no header can be read; never negative;
    may be infinite.
    """
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                date = email.utils.parsedate_to_datetime(value)
                seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
            except (TypeError, ValueError, OverflowError):
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


def backoff_seconds(repeat: int, *, first: float, chance: float) -> float:
    """Seconds before repeat number `repeat` (0 is the first): doubles each time, up to LONGEST_BACKOFF_SECONDS.

    chance: a random number in [0, 1). It shortens the wait by up to half, so that clients that failed together do not
    all return together.
    """
    return min(LONGEST_BACKOFF_SECONDS, first * 2.0 ** min(repeat, 30)) * (1.0 - 0.5 * chance)
