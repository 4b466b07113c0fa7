"""Control, Scaling and Performance (section 3.2 of the paper).

The paper writes Scaling as a slope in tokens, but its published values come out in percentage points per
doubling of thinking tokens, that is with log2 on the x axis. Both units are given. The mean over all pairs of
runs is the paper's; the median over the same pairs (Theil-Sen) is given too, because two runs with nearly the
same number of tokens have a slope of any size and dominate the mean.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from s1.errors import BadInput

if TYPE_CHECKING:
    from s1.evals.intervals import Floats

Unit = Literal["doubling", "1k"]
SMALLEST_STEP = 1e-9
"""Runs that differ by less than this on the x axis have no slope."""


def control(runs: Iterable[tuple[float, float | None, float | None]]) -> float | None:
    """Percent of runs, or of samples, whose thinking tokens lie within their bounds; None without any.

    Each is (thinking tokens, minimum, maximum); both bounds are inside, and None means no bound.

    >>> round(control([(7939, None, 1024), (900, None, 1024), (1024, None, 1024)]), 1)
    66.7
    """
    inside = [(low is None or low <= t) and (high is None or t <= high) for t, low, high in runs]
    return 100 * sum(inside) / len(inside) if inside else None


def scaling(tokens: Sequence[float], accuracies: Sequence[float], per: Unit = "doubling") -> float | None:
    """Mean slope over all pairs of runs: accuracy (as given) per doubling or per 1,000 thinking tokens.

    Pairs with the same number of tokens have no slope and are left out; None when no pair is left.
    Raises BadInput for 0 tokens with per="doubling".

    >>> round(scaling([8033, 9651], [30.0, 36.7], per="1k"), 2)
    4.14
    """
    slopes = _known_slopes(tokens, accuracies, per)
    return statistics.fmean(slopes) if slopes else None


def robust_scaling(
    tokens: Sequence[float], accuracies: Sequence[float], per: Unit = "doubling"
) -> float | None:
    """Median slope over all pairs of runs (Theil-Sen); otherwise as `scaling`."""
    slopes = _known_slopes(tokens, accuracies, per)
    return statistics.median(slopes) if slopes else None


def performance(accuracies: Sequence[float]) -> float | None:
    """The highest accuracy over the runs; None without runs."""
    return max(accuracies, default=None)


def _known_slopes(tokens: Sequence[float], accuracies: Sequence[float], per: Unit) -> list[float]:
    if per == "doubling" and any(t <= 0 for t in tokens):
        raise BadInput(
            "A run with 0 thinking tokens has no place on a log2 axis.", 'Leave it out or use "1k".'
        )
    slopes = pair_slopes(tokens, accuracies, per)
    return [float(slope) for slope in slopes if math.isfinite(slope)]


def pair_slopes(tokens: Any, accuracies: Any, per: Unit) -> Floats:
    """The slope of every pair of runs (the last axis of both arrays); NaN where it has none."""
    import numpy as np

    x, y = np.array([tokens, accuracies], dtype=float)
    first, second = np.triu_indices(x.shape[-1], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.log2(np.where(x > 0, x, np.nan)) if per == "doubling" else x / 1000
        step = x[..., second] - x[..., first]
        return np.where(np.abs(step) > SMALLEST_STEP, (y[..., second] - y[..., first]) / step, np.nan)
