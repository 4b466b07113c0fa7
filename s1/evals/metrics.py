"""Control, Scaling and Performance (section 3.2 of the paper), and all that metrics.json holds.

The paper writes Scaling as a slope in tokens, but its published values come out in percentage points per
doubling of thinking tokens, that is with log2 on the x axis. Both units are reported. The mean over all
pairs is theirs; the median over the same pairs (Theil-Sen) stands beside it, because two runs with nearly the
same number of tokens make one slope as large as you like and the mean with it.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from s1.errors import BadInput
from s1.evals.at_k import maj_at_k, pass_at_k
from s1.evals.intervals import (
    CONFIDENCE,
    DRAWS,
    Flips,
    Interval,
    accuracy_interval,
    bounds,
    flips,
    mcnemar,
    paired_difference,
    questions_needed,
    smallest_difference,
    weights,
    wilson,
)
from s1.evals.points import Row, by_question, kind_of, point_of, table_of
from s1.runs import Key
from s1.types import Generation, Grade, Question

if TYPE_CHECKING:
    from s1.evals.intervals import Floats

__all__ = [
    "Flips",
    "Interval",
    "accuracy_interval",
    "control",
    "flips",
    "maj_at_k",
    "mcnemar",
    "metrics_of",
    "paired_difference",
    "pass_at_k",
    "performance",
    "questions_needed",
    "robust_scaling",
    "scaling",
    "smallest_difference",
    "wilson",
]

Unit = Literal["doubling", "1k"]
Bound = float | Sequence[float | None] | None

SCHEMA = 1
FORCED_KINDS = ("budget", "natural", "wait")
MARGIN = 2.0
"""Percentage points below the best that the advice still calls not worse."""
_TIE = 1e-9


def scaling(tokens: Sequence[float], accuracies: Sequence[float], per: Unit = "doubling") -> float | None:
    """Mean slope over all pairs of runs: accuracy (as given) per doubling or per 1,000 thinking tokens.

    Pairs with the same number of tokens have no slope and are left out; None when no pair is left.
    Raises BadInput for lists of different length, or for 0 tokens with per="doubling".

    >>> round(scaling([8033, 9651], [30.0, 36.7], per="1k"), 2)
    4.14
    """
    slopes = _slopes(tokens, accuracies, per)
    return statistics.fmean(slopes) if slopes else None


def robust_scaling(
    tokens: Sequence[float], accuracies: Sequence[float], per: Unit = "doubling"
) -> float | None:
    """Median slope over all pairs of runs (Theil-Sen); otherwise as `scaling`."""
    slopes = _slopes(tokens, accuracies, per)
    return statistics.median(slopes) if slopes else None


def control(thinking_tokens: Sequence[float], minimum: Bound = None, maximum: Bound = None) -> float | None:
    """Percent of runs, or of samples, whose thinking tokens lie within their bounds, bounds included.

    A bound is one number for all, one for each, or None where there is none. None for no run at all.

    >>> control([7939, 900, 1024], maximum=1024) == control([7939, 900, 1024], None, [1024, 1024, 1024])
    True
    >>> round(control([7939, 900, 1024], maximum=1024), 1)
    66.7
    """
    n = len(thinking_tokens)
    lows, highs = _each(minimum, n), _each(maximum, n)
    if not n:
        return None
    inside = (
        (low is None or low <= t) and (high is None or t <= high)
        for t, low, high in zip(thinking_tokens, lows, highs, strict=True)
    )
    return 100 * sum(inside) / n


def performance(accuracies: Sequence[float]) -> float | None:
    """The highest accuracy over the runs; None without runs.

    >>> performance([3.3, 30.0, 33.3])
    33.3
    """
    return max(accuracies, default=None)


def metrics_of(
    generations: Iterable[Generation],
    grades: Mapping[Key, Grade],
    questions: Sequence[Question],
    policies: Sequence[Mapping[str, Any]],
    *,
    grading: str | None = None,
    about: Mapping[str, Any] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Everything that metrics.json holds; docs/formats.md says what each field is.

    A policy is a mapping with `key`, `label`, `max_thinking` and `min_thinking` (None for no bound), `waits`, and
    optionally `kind` and `wait`. Only questions that every policy has finished are counted, so that points
    can be compared. `about` (model, benchmark, ...) is copied in front. Raises BadInput for a receipt
    without a grade, or with a policy or question that is not listed.
    """
    import numpy as np

    keys = [str(p["key"]) for p in policies]
    labels = {str(p["key"]): str(p["label"]) for p in policies}
    table = table_of(generations, grades, [q.id for q in questions], keys)
    samples = 1 + max((sample for cell in table.values() for sample in cell), default=0)
    complete = [q.id for q in questions if all(len(table[key, q.id]) == samples for key in keys)]
    cells = {key: [table[key, q][sample] for q in complete for sample in range(samples)] for key in keys}
    points = [point_of(p, cells[str(p["key"])], samples, seed=seed, draws=draws) for p in policies]
    metrics: dict[str, Any] = {
        "schema": SCHEMA,
        **(about or {}),
        "grading": grading,
        "exact": all(p["exact"] for p in points),
        "questions": len(questions),
        "complete": len(complete),
        "samples": samples,
        "confidence": CONFIDENCE,
        "points": points,
        **_controls(policies, points, cells),
        "performance": performance([p["accuracy"] for p in points if p["n"]]),
    }
    scores = {label: by_question([r.right for r in rows], samples) for label, rows in cells.items()}
    resampled = _resample(cells, samples, len(complete), seed=seed, draws=draws)
    for per in ("doubling", "1k"):
        metrics |= _scalings(points, *resampled, per)
    metrics["flips"] = [
        _flips(before, after, cells, scores, complete, samples, labels, seed=seed, draws=draws)
        for before, after in _steps(policies)
        if complete
    ]
    metrics["smallest_difference"] = 100 * smallest_difference(len(complete)) if complete else None
    metrics["advice"] = _advice(points, scores, resampled[1]) if complete else None
    plain = _rounded({k: v.item() if isinstance(v, np.generic) else v for k, v in metrics.items()})
    assert isinstance(plain, dict)
    return plain


def _controls(
    policies: Sequence[Mapping[str, Any]],
    points: Sequence[Mapping[str, Any]],
    cells: Mapping[str, list[Row]],
) -> dict[str, float | None]:
    """Control per run (on its mean, as in the paper) and per sample, over the policies that have a bound.

    Asked for a "short" or "long" `amount`, a run must come out below or above the natural end (SEMANTICS 1).
    """
    runs, per_sample = [], []
    natural = next((p["thinking_tokens"] for p in points if p["kind"] == "natural"), None)
    for policy, point in zip(policies, points, strict=True):
        low, high = policy.get("min_thinking") or None, policy.get("max_thinking")
        if amount := policy.get("amount"):
            low, high = (natural, None) if amount == "long" else (None, natural)
        if point["thinking_tokens"] is None or (low is None and high is None):
            continue
        runs.append((point["thinking_tokens"], low, high))
        per_sample += [(r.thinking_tokens, low, high) for r in cells[point["key"]] if not r.failed]
    return {
        name: control([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])
        for name, rows in (("control", runs), ("control_per_sample", per_sample))
    }


def _resample(
    cells: Mapping[str, list[Row]], samples: int, n: int, *, seed: int, draws: int
) -> tuple[Floats, Floats]:
    """Mean thinking tokens spent and accuracies (percent) of every policy in every draw, shape (draws, policies).

    One draw of questions serves all policies, so differences and slopes are paired.
    """
    import numpy as np

    if not n:
        return np.empty((0, len(cells))), np.empty((0, len(cells)))
    columns = cells.values()
    right = np.array([by_question([r.right for r in rows], samples) for rows in columns]).T
    whole = np.array([by_question([not r.failed for r in rows], samples) for rows in columns]).T
    spent = np.array(
        [by_question([0 if r.failed else r.spent.thinking for r in rows], samples) for rows in columns]
    ).T
    tokens, accuracies = [], []
    for block in weights(n, draws=draws, seed=seed):
        with np.errstate(invalid="ignore", divide="ignore"):
            tokens.append((block @ spent) / (block @ whole))
        accuracies.append(100 * (block @ right))
    return np.concatenate(tokens), np.concatenate(accuracies)


def _scalings(
    points: Sequence[Mapping[str, Any]], tokens: Floats, accuracies: Floats, per: Unit
) -> dict[str, Any]:
    """Scaling and its robust twin in one unit with intervals. Points without tokens have no log2.

    The set of runs is that of one method: budget forcing where two points or more are its own, else all.
    """
    import numpy as np

    forced = [p for p in points if p["kind"] in FORCED_KINDS]
    used = [
        i
        for i, p in enumerate(points)
        if p["spent"]["thinking"] is not None and (p["spent"]["thinking"] > 0 or per == "1k")
        if len(forced) < 2 or p in forced
    ]
    x = [points[i]["spent"]["thinking"] for i in used]
    y = [points[i]["accuracy"] for i in used]
    found: dict[str, Any] = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        axis = np.log2(tokens) if per == "doubling" else tokens / 1000
        pairs = list(itertools.combinations(used, 2))
        first, second = [a for a, _ in pairs], [b for _, b in pairs]
        run = axis[:, second] - axis[:, first]
        slopes = np.where(np.abs(run) > _TIE, (accuracies[:, second] - accuracies[:, first]) / run, np.nan)
    slopes = slopes[np.isfinite(slopes).any(axis=1)]
    for name, value, draw in (
        (f"scaling_per_{per}", scaling(x, y, per), np.nanmean),
        (f"robust_scaling_per_{per}", robust_scaling(x, y, per), np.nanmedian),
    ):
        low, high = bounds(draw(slopes, axis=1)) if value is not None else (None, None)
        found |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return found


def _steps(policies: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Pairs to compare for flips: the natural end with each wait, and each wait with the one before."""
    natural = [str(p["key"]) for p in policies if kind_of(p) == "natural"]
    chains: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for p in policies:
        if kind_of(p) == "wait":
            chains[repr(p.get("wait"))].append((int(p["waits"]), str(p["key"])))
    steps = [(before, label) for before in natural[:1] for chain in chains.values() for _, label in chain]
    for chain in chains.values():
        ordered = [label for _, label in sorted(chain)]
        steps += list(itertools.pairwise(ordered))
    return steps


def _flips(
    before: str,
    after: str,
    cells: Mapping[str, list[Row]],
    scores: Mapping[str, list[float]],
    ids: Sequence[str],
    samples: int,
    labels: Mapping[str, str],
    *,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """What changed from one policy to another. p holds for one sample a question, else it is None."""
    one, two = ({i: row.right for i, row in enumerate(cells[label])} for label in (before, after))
    found = flips(one, two)
    earlier, later = (dict(zip(ids, scores[label], strict=True)) for label in (before, after))
    change = paired_difference(earlier, later, seed=seed, draws=draws)
    return {
        "before": labels[before],
        "after": labels[after],
        "n": len(ids),
        "wrong_to_right": found.wrong_to_right,
        "right_to_wrong": found.right_to_wrong,
        "p": found.p if samples == 1 else None,
        "difference": 100 * change.mean,
        "low": 100 * change.low,
        "high": 100 * change.high,
    }


def _advice(
    points: Sequence[Mapping[str, Any]], scores: Mapping[str, list[float]], accuracies: Floats
) -> dict[str, Any]:
    """The cheapest policy that is, with 95 % confidence, not worse than the best by more than MARGIN.

    Where a cheaper one looks good enough but n questions cannot show it, says how many could.
    """
    import numpy as np

    order = sorted(range(len(points)), key=lambda i: (points[i]["spent"]["thinking"] or 0, i))
    best = min(order, key=lambda i: (-points[i]["accuracy"], order.index(i)))
    untold: dict[str, Any] = {"candidate": None, "questions_needed": None}
    chosen, worst = best, 0.0
    for i in order[: order.index(best)]:
        low = float(np.quantile(accuracies[:, i] - accuracies[:, best], 1 - CONFIDENCE))
        gap = points[i]["accuracy"] - points[best]["accuracy"]
        if low >= -MARGIN:
            chosen, worst = i, low
            break
        if untold["candidate"] is None and gap > -MARGIN:
            one, two = (np.array(scores[points[j]["key"]]) for j in (i, best))
            z = statistics.NormalDist().inv_cdf(CONFIDENCE) + statistics.NormalDist().inv_cdf(0.8)
            needed = math.ceil((z * 100 * float(np.std(one - two)) / (MARGIN + gap)) ** 2)
            untold = {"candidate": points[i]["policy"], "questions_needed": needed}
    return {
        "policy": points[chosen]["policy"],
        "best": points[best]["policy"],
        "margin": MARGIN,
        "difference_low": worst,
        **untold,
    }


def _slopes(tokens: Sequence[float], accuracies: Sequence[float], per: Unit) -> list[float]:
    if len(tokens) != len(accuracies):
        raise BadInput(
            f"{len(tokens)} token counts and {len(accuracies)} accuracies.", "Give one for each run."
        )
    if per not in ("doubling", "1k"):
        raise BadInput(f"per={per!r} is no unit of Scaling.", 'Use "doubling" or "1k".')
    if per == "doubling" and any(t <= 0 for t in tokens):
        raise BadInput(
            "A run with 0 thinking tokens has no place on a log2 axis.", 'Leave it out or use "1k".'
        )
    x = [math.log2(t) if per == "doubling" else t / 1000 for t in tokens]
    pairs = itertools.combinations(zip(x, accuracies, strict=True), 2)
    return [(b - a) / (t - s) for (s, a), (t, b) in pairs if abs(t - s) > _TIE]


def _each(bound: Bound, n: int) -> list[float | None]:
    if bound is None:
        return [None] * n
    if isinstance(bound, (int, float, Real)):
        return [float(bound)] * n
    each = list(bound)
    if len(each) != n:
        raise BadInput(f"{len(each)} bounds for {n} runs.", "Give one bound for all runs or one for each.")
    return each


def _rounded(value: Any) -> Any:
    """Six decimals (p: four digits), so that the order of a sum does not show in the file."""
    if isinstance(value, float):
        return round(value, 6) + 0.0
    if isinstance(value, Mapping):
        return {k: float(f"{v:.4g}") if k == "p" and v is not None else _rounded(v) for k, v in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
