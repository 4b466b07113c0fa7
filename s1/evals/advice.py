"""Which policy to use: the cheapest that is shown to be as good as the best, or nearly."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from s1.evals.intervals import CONFIDENCE, POWER, paired_difference
from s1.evals.metrics import Advice

MARGIN = 2.0
"""Percentage points below the best that the advice still calls not worse."""


def advise(prices: Sequence[float], scores: Mapping[str, Sequence[float]]) -> Advice:
    """The cheapest policy that is not worse than the best, or how many questions would show a cheaper one.

    `prices` are tokens by policy, `scores` shares right by policy and question, in the same order. The policies
    are tested from the best to the cheapest, and the first that is not shown to be as good ends the search. So a
    wrong one is advised only where the first wrong one passes its test, which has a chance of 5 %, however many follow.
    """
    keys = list(scores)
    means = [100 * statistics.fmean(scores[key]) for key in keys]
    order = sorted(range(len(keys)), key=lambda i: (prices[i], i))
    best = min(order, key=lambda i: (-round(means[i], 9), order.index(i)))
    chosen, lowest = best, 0.0
    candidate, needed = None, None
    for i in reversed(order[: order.index(best)]):
        one, other = scores[keys[best]], scores[keys[i]]
        low = 100 * paired_difference(one, other, confidence=2 * CONFIDENCE - 1).low
        if low >= -MARGIN:
            chosen, lowest = i, low
            continue
        if (gap := means[i] - means[best]) > -MARGIN:
            normal = statistics.NormalDist()
            z = normal.inv_cdf(CONFIDENCE) + normal.inv_cdf(POWER)
            spread = statistics.pstdev(b - a for a, b in zip(one, other, strict=True))
            # what no change at all in n questions shows
            unseen = -100 * math.log(1 - CONFIDENCE) / (MARGIN + gap)
            needed = math.ceil(max((z * 100 * spread / (MARGIN + gap)) ** 2, unseen, len(one) + 1))
            candidate = keys[i]
        break
    pairs = len(keys) * (len(keys) - 1) // 2  # any of them could have come out best
    shown = 1 - (1 - CONFIDENCE) / max(1, pairs)
    rivals = tuple(
        key
        for key in keys
        if key != keys[best] and paired_difference(scores[key], scores[keys[best]], confidence=shown).low <= 0
    )
    return Advice(keys[chosen], keys[best], MARGIN, lowest, candidate, needed, rivals)
