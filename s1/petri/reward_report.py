"""How well the scores of a reward model foretell the outcome: AUC and calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, NamedTuple


class Marked(NamedTuple):
    """A rollout with the places that the head sees. Tokens."""

    question: int
    """Its place in the list of questions."""
    ids: tuple[int, ...]
    """Prompt, thinking and answer."""
    places: tuple[int, ...]
    """Positions of the marks; the last is the rollout's end."""
    depths: tuple[int | None, ...]
    """For each place: how many attempts it ends, None where it ends none."""
    right: bool


def report(rollouts: Sequence[Marked], scores: Sequence[float]) -> dict[str, Any]:
    """How scores at the ends of attempts and rollouts foretell the outcome; `scores` go by places, in order.

    AUC: the chance that a rollout that came out right scores above one that did not; 0.5 is chance.
    """
    by_depth: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    ends: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    each = iter(scores)
    for rollout in rollouts:
        for place, depth in zip(rollout.places, rollout.depths, strict=True):
            pair = next(each), rollout.right
            if depth is not None:
                by_depth[depth].append(pair)
            if place == rollout.places[-1]:
                ends[rollout.question].append(pair)
    steps = [pair for pairs in by_depth.values() for pair in pairs]
    return {
        "rollouts": len(rollouts),
        "right": round(percent_right(r.right for r in rollouts), 1),
        "auc_by_attempt": {
            str(depth): {"n": len(pairs), "auc": auc(pairs)} for depth, pairs in sorted(by_depth.items())
        },
        "auc_of_attempts": auc(steps),
        "auc_at_the_end": auc([pair for pairs in ends.values() for pair in pairs]),
        "auc_at_the_end_within_questions": auc_within(ends.values()),
        "calibration": calibration(steps),
    }


def auc(pairs: Sequence[tuple[float, bool]]) -> float | None:
    """Area under the ROC curve of pairs (score, right), ties counted half; None where all came out alike."""
    return auc_within([pairs])


def auc_within(groups: Iterable[Sequence[tuple[float, bool]]]) -> float | None:
    """The same over those pairs of rollouts that belong to one group: what a search or vote compares."""
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
    """Scores in bins of equal width against the share that came out right, and the mean distance of the two."""
    rows, error = [], 0.0
    for i in range(bins):
        inside = [(s, r) for s, r in pairs if min(int(s * bins), bins - 1) == i]
        if inside:
            score = sum(s for s, _ in inside) / len(inside)
            share = sum(r for _, r in inside) / len(inside)
            error += abs(score - share) * len(inside) / len(pairs)
            rows.append({"n": len(inside), "score": round(score, 3), "right": round(share, 3)})
    return {"bins": rows, "error": round(error, 4)}


def percent_right(right: Iterable[bool]) -> float:
    """Share of outcomes that are right, in percent; 0 of none."""
    each = list(right)
    return 100 * sum(each) / len(each) if each else 0.0
