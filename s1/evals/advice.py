"""Which policy to use: the cheapest that is shown to be as good as the best, or nearly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from s1.evals.intervals import CONFIDENCE
from s1.evals.metrics import Advice

if TYPE_CHECKING:
    from s1.evals.intervals import Floats

MARGIN = 2.0
"""Percentage points below the best that the advice still calls not worse."""
POWER = 0.8


def advise(prices: Sequence[float], scores: Mapping[str, Sequence[float]], accuracies: Floats) -> Advice:
    """The cheapest policy that is not worse than the best, or how many questions would show a cheaper one.

    `prices` are tokens by policy, `scores` shares right by policy and question, `accuracies` percent by
    bootstrap draw and policy, all in the same order. The policies are tested from the best to the cheapest, and
    the first that is not shown to be as good ends the search. So a wrong one is advised only where the first
    wrong one passes its test, which has a chance of 5 %, however many follow.
    """
    import numpy as np

    keys = list(scores)
    means = [100 * statistics.fmean(scores[key]) for key in keys]
    order = sorted(range(len(keys)), key=lambda i: (prices[i], i))
    best = min(order, key=lambda i: (-round(means[i], 9), order.index(i)))
    chosen, lowest = best, 0.0
    candidate, needed = None, None
    for i in reversed(order[: order.index(best)]):
        low = float(np.quantile(accuracies[:, i] - accuracies[:, best], 1 - CONFIDENCE))
        if low >= -MARGIN:
            chosen, lowest = i, low
            continue
        if (gap := means[i] - means[best]) > -MARGIN:
            normal = statistics.NormalDist()
            z = normal.inv_cdf(CONFIDENCE) + normal.inv_cdf(POWER)
            spread = float(np.std(np.subtract(scores[keys[i]], scores[keys[best]])))
            candidate, needed = keys[i], math.ceil((z * 100 * spread / (MARGIN + gap)) ** 2)
        break
    return Advice(keys[chosen], keys[best], MARGIN, lowest, candidate, needed)
