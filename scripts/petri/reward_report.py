"""How well the scores of a reward model predict the outcome of a rollout: AUC and calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from s1.petri.reward import LabelledRollout


def report(rollouts: Sequence[LabelledRollout], scores: Sequence[float], attempt_end: int) -> dict[str, Any]:
    """AUC by attempt, over all attempts, and at the end of rollouts, and the calibration of attempts.

    `scores` has one score per position of each rollout, in order; `attempt_end` is the token that ends an
    attempt. AUC is the chance that a right rollout scores above a wrong one; 0.5 is guessing.
    """
    by_attempt: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    ends: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    each = iter(scores)
    for rollout in rollouts:
        attempt = 0
        for position in rollout.positions:
            pair = next(each), rollout.right
            if rollout.ids[position] == attempt_end:
                attempt += 1
                by_attempt[attempt].append(pair)
            if position == rollout.positions[-1]:
                ends[rollout.question].append(pair)
    attempts = [pair for pairs in by_attempt.values() for pair in pairs]
    right = [rollout.right for rollout in rollouts]
    return {
        "rollouts": len(rollouts),
        "right": round(100 * sum(right) / len(right), 1) if right else 0.0,
        "auc_by_attempt": {
            str(attempt): {"n": len(pairs), "auc": auc(pairs)}
            for attempt, pairs in sorted(by_attempt.items())
        },
        "auc_of_attempts": auc(attempts),
        "auc_at_the_end": auc([pair for pairs in ends.values() for pair in pairs]),
        "auc_at_the_end_within_questions": auc_within(ends.values()),
        "calibration": calibration(attempts),
    }


def auc(pairs: Sequence[tuple[float, bool]]) -> float | None:
    """Area under the ROC curve of pairs (score, right); ties count half. None when all outcomes are the same."""
    return auc_within([pairs])


def auc_within(groups: Iterable[Sequence[tuple[float, bool]]]) -> float | None:
    """AUC over pairs of rollouts in the same group, which is what a search or a vote compares."""
    won, compared = 0.0, 0
    for pairs in groups:
        below = 0
        for _, tied in groupby(sorted(pairs), key=lambda pair: pair[0]):
            outcomes = [right for _, right in tied]
            lost = len(outcomes) - sum(outcomes)
            won += sum(outcomes) * (below + lost / 2)
            below += lost
        compared += below * (len(pairs) - below)
    return round(won / compared, 4) if compared else None


def calibration(pairs: Sequence[tuple[float, bool]], bins: int = 5) -> dict[str, Any]:
    """Mean score and share of right outcomes in bins of equal width, and the mean distance between the two."""
    rows, error = [], 0.0
    for i in range(bins):
        inside = [(s, r) for s, r in pairs if min(int(s * bins), bins - 1) == i]
        if inside:
            score = sum(s for s, _ in inside) / len(inside)
            share = sum(r for _, r in inside) / len(inside)
            error += abs(score - share) * len(inside) / len(pairs)
            rows.append({"n": len(inside), "score": round(score, 3), "right": round(share, 3)})
    return {"bins": rows, "error": round(error, 4)}
