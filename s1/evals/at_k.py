"""pass@k and maj@k without bias: over every subset of k samples, not over the first k.

With the first k samples (as in the official evaluation) the curve would depend on the order of the samples
and use only some of them.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction

from s1.errors import BadInput
from s1.grading import candidates


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that at least one of k samples is right, unbiased from `right` of `samples`."""
    _check_k(samples, k)
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def maj_at_k(answers: Sequence[str | None], right: Sequence[bool], k: int, kind: str = "math") -> float:
    """The chance that a majority vote over k of these samples is right: exact, over all subsets of size k.

    All right answers are one answer, and so are wrong ones that say the same under `kind`
    (`s1.grading.candidates`); None does not vote; tied answers share the vote equally. Differs: the official
    code counts spellings, votes over the first k samples and gives ties to the answer seen first.
    """
    _check_k(len(answers), k)
    hits = sum(right)
    counts = _sizes(tuple(a for a, r in zip(answers, right, strict=True) if a is not None and not r), kind)
    silent = len(answers) - hits - sum(counts)
    won: dict[int, int] = defaultdict(int)  # how many others share the most votes -> subsets
    for votes in range(1, min(hits, k) + 1):
        # ways[used][tied]: subsets of the other answers, none with more than `votes`, `tied` with as many
        ways: dict[tuple[int, int], int] = {(0, 0): 1}
        for count in counts:
            ways = _with_answer(ways, count, votes, k - votes)
        for (used, tied), number in ways.items():
            rest = k - votes - used
            if rest <= silent:
                subsets = number * math.comb(hits, votes) * math.comb(silent, rest)
                won[tied] += subsets
    share = sum((Fraction(subsets, tied + 1) for tied, subsets in won.items()), Fraction(0))
    return float(share / math.comb(len(answers), k))


@functools.lru_cache(maxsize=64)
def _sizes(answers: tuple[str, ...], kind: str) -> list[int]:
    """How many of the answers each candidate has; kept, because every k asks for it."""
    return [len(group) for group in candidates(answers, kind)]


def _check_k(samples: int, k: int) -> None:
    if not 1 <= k <= samples:
        raise BadInput(f"k={k} with {samples} samples.", "k must be between 1 and the number of samples.")


def _with_answer(
    ways: Mapping[tuple[int, int], int], count: int, votes: int, room: int
) -> dict[tuple[int, int], int]:
    """The subsets in `ways` extended by 0 to `votes` samples of one more answer that has `count`."""
    extended: dict[tuple[int, int], int] = defaultdict(int)
    for (used, tied), number in ways.items():
        for taken in range(min(count, votes, room - used) + 1):
            extended[used + taken, tied + (taken == votes)] += number * math.comb(count, taken)
    return extended
