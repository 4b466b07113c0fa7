"""How certain a number is: intervals over questions, paired differences, what n questions can show.

A benchmark is a sample of questions, so that questions are what varies; the samples of one question are averaged
first. Shares here are between 0 and 1, differences between -1 and 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
POWER = 0.8
DRAWS = 10_000
_CHUNK = 1_000
PRIOR = 2
"""Questions; the weight of the largest possible variance beside the one that was found."""
TINY = 1e-12


class Interval(NamedTuple):
    """A mean with its bounds, and the kind of interval."""

    mean: float
    low: float
    high: float
    how: str = "clopper-pearson"


class Flips(NamedTuple):
    """Questions that changed from one run to another, and the exact two-sided McNemar p of that split."""

    wrong_to_right: int
    right_to_wrong: int
    p: float


def weights(n: int, *, draws: int = DRAWS, seed: int = 0) -> Iterator[Floats]:
    """Bootstrap weights in blocks of shape (up to 1,000, n): row sums are 1, rows draw n of n questions."""
    import numpy as np

    rng = np.random.default_rng(seed)
    for start in range(0, draws, _CHUNK):
        rows = min(_CHUNK, draws - start)
        drawn = rng.integers(n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n) / n


def bounds(values: Any) -> tuple[float, float]:
    """The percentile interval of bootstrap values, leaving out those that are not finite."""
    import numpy as np

    array = np.asarray(values, dtype=float)
    low, high = np.quantile(array[np.isfinite(array)], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def accuracy_interval(scores: Sequence[float], *, confidence: float = CONFIDENCE) -> Interval:
    """Mean of per-question scores in [0, 1] with an interval that holds its coverage for few questions and at the ends.

    Clopper and Pearson's interval for as many questions as the scores are worth (Korn and Graubard 1998): with one
    sample that is their number. With several samples the variance between questions says how many independent
    answers they amount to. Where few scores differ from 0 (or from 1) that variance is not known, so it is drawn
    towards the largest that the mean allows, with the weight of PRIOR questions: the first success never narrows
    the interval. benchmarks/coverage.py measures the coverage. Raises BadInput without scores.
    """
    n = len(scores)
    if not n:
        raise BadInput("There are no scores to average.", "Grade at least one question.")
    mean = min(1.0, max(0.0, math.fsum(scores) / n))
    largest = mean * (1 - mean)
    worth = float(n)
    if largest > 0 and n > 1:
        found = math.fsum((score - mean) ** 2 for score in scores) / (n - 1)
        known = n * min(mean, 1 - mean)
        variance = (known * found + PRIOR * largest) / (known + PRIOR)
        worth = max(n, n * largest / variance)
    return Interval(mean, *clopper_pearson(mean * worth, worth, confidence))


def clopper_pearson(right: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The bounds of a share with `right` of `n`, which need not be whole: quantiles of beta distributions."""
    tail, wrong = (1 - confidence) / 2, n - right
    low = 0.0 if right < TINY else _beta_quantile(tail, right, wrong + 1)
    high = 1.0 if wrong < TINY else 1 - _beta_quantile(tail, wrong, right + 1)
    return low, high


@functools.lru_cache(maxsize=4096)
def _beta_quantile(tail: float, a: float, b: float) -> float:
    """Where the distribution function of beta(a, b) is `tail`, by halving."""
    low, high = 0.0, 1.0
    while high - low > 1e-10:
        middle = (low + high) / 2
        if _beta_share(middle, a, b) < tail:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """The distribution function of beta(a, b) at x, 0 < x < 1: its continued fraction, from the last term."""
    if x > (a + 1) / (a + b + 2):  # there it converges slowly; the other end does not
        return 1 - _beta_share(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    fraction = 1.0
    for step in range(60 + 2 * math.isqrt(math.ceil(a + b)), 0, -1):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + term * x / fraction
    return front / (a * fraction)


def paired_difference(
    before: Sequence[float], after: Sequence[float], *, confidence: float = CONFIDENCE
) -> Interval:
    """Mean of `after` minus `before`: scores in [0, 1] of the same questions, in the same order.

    The gains and the losses each have an interval as an accuracy has, and these are combined by squares with the
    correlation of two shares that exclude each other (Newcombe 1998). Raises BadInput without scores.
    """
    changes = [new - old for old, new in zip(before, after, strict=True)]
    gain = accuracy_interval([max(0.0, change) for change in changes], confidence=confidence)
    loss = accuracy_interval([max(0.0, -change) for change in changes], confidence=confidence)
    odds = (1 - gain.mean) * (1 - loss.mean)
    correlation = min(1.0, math.sqrt(gain.mean * loss.mean / odds)) if odds > 0 else 0.0

    def reach(one: float, other: float) -> float:
        return math.sqrt(one**2 + other**2 + 2 * correlation * one * other)

    mean = gain.mean - loss.mean
    low = mean - reach(gain.mean - gain.low, loss.high - loss.mean)
    high = mean + reach(gain.high - gain.mean, loss.mean - loss.low)
    return Interval(mean, max(-1.0, low), min(1.0, high))


def flips(before: Sequence[bool], after: Sequence[bool]) -> Flips:
    """Wrong to right and right to wrong, over the same questions in the same order."""
    pairs = list(zip(before, after, strict=True))
    gained, lost = sum(new and not old for old, new in pairs), sum(old and not new for old, new in pairs)
    return Flips(gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p: how often a fair coin splits gained + lost flips at least as unevenly."""
    n = gained + lost
    tail = sum(math.comb(n, i) for i in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**n))


def smallest_difference(n: int, *, discordant: float = 0.2, step: float = 1.0) -> float:
    """The smallest true difference that two runs on the same n questions show with 80 % power.

    `discordant` is the mean squared difference of a question's scores: with one sample, the share of questions
    on which the runs disagree. `step` is the smallest difference that one question can show, 1 / samples; the
    mean squared difference cannot be smaller than `step` times the mean difference. Two-sided paired test
    (McNemar's with one sample), normal approximation.
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + CONFIDENCE) / 2) + normal.inv_cdf(POWER)
    return min(1.0, max(z * math.sqrt(discordant / n), z * z * step / n))
