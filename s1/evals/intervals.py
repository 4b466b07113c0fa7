"""How certain a number is: intervals over questions, paired differences, what n questions can show.

The bootstrap resamples questions, because a benchmark is a sample of questions; the samples of one question
are averaged first. Shares here are between 0 and 1, differences between -1 and 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CONFIDENCE = 0.95
DRAWS = 10_000
_CHUNK = 1_000


class Interval(NamedTuple):
    """A mean with its bounds; `how` is "bootstrap", "wilson" or "rule of n"."""

    mean: float
    low: float
    high: float
    how: str


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


def bounds(values: Any, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile interval of bootstrap values, leaving out those that are not finite."""
    import numpy as np

    array = np.asarray(values, dtype=float)
    low, high = np.quantile(array[np.isfinite(array)], [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def accuracy_interval(
    scores: Sequence[float], *, confidence: float = CONFIDENCE, draws: int = DRAWS, seed: int = 0
) -> Interval:
    """Mean of per-question scores in [0, 1] with a percentile bootstrap over questions.

    Where every score is 0, or every score is 1, resampling shows no spread; the interval is then Wilson's.
    Raises BadInput without scores.
    """
    import numpy as np

    if not len(scores):
        raise BadInput("There are no scores to average.", "Grade at least one question.")
    array = np.asarray(scores, dtype=float)
    mean = float(array.mean())
    if mean in (0.0, 1.0):
        return Interval(mean, *wilson(round(mean * len(array)), len(array), confidence), "wilson")
    means = np.concatenate([block @ array for block in weights(len(array), draws=draws, seed=seed)])
    return Interval(mean, *bounds(means, confidence), "bootstrap")


def wilson(right: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share; it stays inside [0, 1] and has a width at 0 and n too."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    share = right / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return (0.0 if right == 0 else middle - half), (1.0 if right == n else middle + half)


def paired_difference(
    before: Mapping[Any, float],
    after: Mapping[Any, float],
    *,
    confidence: float = CONFIDENCE,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Mean of `after` minus `before` over the same questions (id -> score), bootstrapped in pairs.

    Where all differences are equal the bootstrap has no width; the interval is then widened on either side by
    the share of questions that could have been missed (Wilson's bound for 0 of n). Raises BadInput when the
    questions differ.
    """
    import numpy as np

    _same_questions(before, after)
    d = np.array([after[key] - before[key] for key in before], dtype=float)
    if np.ptp(d) == 0:
        unseen, mean = wilson(0, len(d), confidence)[1], float(d[0])
        return Interval(mean, max(-1.0, mean - unseen), min(1.0, mean + unseen), "rule of n")
    means = np.concatenate([block @ d for block in weights(len(d), draws=draws, seed=seed)])
    return Interval(float(d.mean()), *bounds(means, confidence), "bootstrap")


def flips(before: Mapping[Any, bool], after: Mapping[Any, bool]) -> Flips:
    """Wrong to right and right to wrong over the same questions. Raises BadInput when they differ."""
    _same_questions(before, after)
    gained = sum(bool(after[key]) and not before[key] for key in before)
    lost = sum(bool(before[key]) and not after[key] for key in before)
    return Flips(gained, lost, mcnemar(gained, lost))


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p: how often a fair coin splits gained + lost flips at least as unevenly."""
    n = gained + lost
    tail = sum(math.comb(n, i) for i in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**n))


def smallest_difference(
    n: int, *, discordant: float = 0.2, step: float = 1.0, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """The smallest true difference that two runs on the same n questions show with this power.

    `discordant` is the mean squared difference of a question's scores: with one sample, the share of questions
    on which the runs disagree. `step` is the smallest difference that one question can show, 1 / samples; the
    mean squared difference cannot be smaller than `step` times the mean difference. Two-sided paired test
    (McNemar's with one sample), normal approximation.
    """
    normal = NormalDist()
    z = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return min(1.0, max(z * math.sqrt(discordant / n), z * z * step / n))


def _same_questions(before: Mapping[Any, float], after: Mapping[Any, float]) -> None:
    if after.keys() != before.keys():
        odd = [key for key in (*before, *after) if (key in before) != (key in after)]
        raise BadInput(
            f"The two runs have different questions: {len(before)} and {len(after)}, "
            f"of which {len(odd)} are in only one of them (the first {odd[0]!r}).",
            "Compare runs on the same questions.",
        )
    if not before:
        raise BadInput("There are no questions to compare.", "Grade at least one question in both runs.")
