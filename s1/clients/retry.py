"""When a request to a server is worth repeating, and after how long: pure, for every client in the house."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Mapping
from datetime import UTC

LONGEST_BACKOFF_SECONDS = 60.0
BUSY = frozenset({408, 409, 425, 429})
HOPELESS = frozenset({501, 505})
"""Not implemented, HTTP version not supported: the same request fails for ever."""


def may_be_repeated(status: int) -> bool:
    """Whether the same request may succeed later: a busy server, or one that fails inside (5xx, also of proxies)."""
    return status in BUSY or (status >= 500 and status not in HOPELESS)


def wanted_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait, from `retry-after-ms` or `retry-after` (a number or a date).

    `now`: seconds since the epoch. Names of headers in lower case. None where it asks for nothing that can be
    read; never negative; may be infinite.
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


def pause_seconds(repeat: int, wanted: float | None, *, first: float, chance: float) -> float:
    """Seconds before the repeat number `repeat` (0 is the first): what the server asks for, else a doubling wait.

    `chance` in [0, 1) sets clients apart that failed together: a doubling wait is shortened by up to half (it
    stays within LONGEST_BACKOFF_SECONDS), a wanted one prolonged by up to 0.1 s.
    """
    if wanted is not None:
        return wanted + 0.1 * chance
    return min(LONGEST_BACKOFF_SECONDS, first * 2.0 ** min(repeat, 30)) * (1.0 - 0.5 * chance)
