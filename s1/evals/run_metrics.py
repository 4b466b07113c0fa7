"""From generations and grades to the metrics of a run.

One set of bootstrap draws over questions serves all policies, so differences and slopes are paired.
"""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from s1.errors import BadInput
from s1.evals.advice import advise
from s1.evals.at_k import maj_at_k, pass_at_k
from s1.evals.intervals import (
    CONFIDENCE,
    DRAWS,
    accuracy_interval,
    bounds,
    flips,
    paired_difference,
    smallest_difference,
    weights,
)
from s1.evals.metrics import (
    SCHEMA,
    BudgetLadder,
    FallenQuestion,
    Flip,
    MeanSpent,
    MethodControl,
    Metrics,
    Point,
    Slope,
)
from s1.evals.scaling import Unit, control, pair_slopes, performance, robust_scaling, scaling
from s1.methods import spent_on
from s1.runs import Key, PolicyRecord, RunRecord, key_of
from s1.types import Generation, Grade, Outcome, Question, Spent, from_json, to_json

if TYPE_CHECKING:
    from s1.evals.intervals import Floats

FORCED_KINDS = ("budget", "natural", "wait")


class GradedGeneration(NamedTuple):
    generation: Generation
    grade: Grade

    @property
    def right(self) -> bool:
        return self.grade.outcome == "right"

    @property
    def failed(self) -> bool:
        return self.generation.error is not None

    @property
    def spent(self) -> Spent:
        return spent_on([self.generation])

    @property
    def forced_share(self) -> float | None:
        """Percent of the tokens after the prompt that the forcing appended; None without token ids."""
        written = sum(len(s.token_ids) for s in self.generation.segments if s.phase != "prompt")
        return 100 * self.generation.forced_tokens / written if written else None


Bounded = tuple[float, float | None, float | None]
"""Thinking tokens, and the bounds that they should lie within."""
Cells = Mapping[str, Sequence[GradedGeneration]]
"""By the key of the policy: the samples of the first question, those of the second, and so on."""


def metrics_of(
    run: RunRecord,
    questions: Sequence[Question],
    generations: Iterable[Generation],
    grades: Mapping[Key, Grade],
    *,
    grading: str | None = None,
    draws: int = DRAWS,
) -> Metrics:
    """All numbers of a run; `grading` names the profile of the grades where it is not that of the config.

    How many samples there should be is in the config, not in what is there. Raises BadInput for a generation without
    a grade, or with a policy, question or sample that is not in the run.
    """
    policies, config = run.config.policies, run.config
    samples = config.samples
    table = _table(generations, grades, [q.id for q in questions], [p.key for p in policies], samples)
    complete = [q.id for q in questions if all(len(table[p.key, q.id]) == samples for p in policies)]
    cells = {p.key: [table[p.key, q][s] for q in complete for s in range(samples)] for p in policies}
    points = tuple(_point(p, cells[p.key], samples, config.kind) for p in policies)
    scores = {key: _by_question([g.right for g in cell], samples) for key, cell in cells.items()}
    tokens, accuracies = _resampled(cells, samples, len(complete), draws)
    per_doubling, robust_per_doubling = _slopes(points, tokens, accuracies, "doubling")
    per_1k, robust_per_1k = _slopes(points, tokens, accuracies, "1k")
    steps = _steps(policies) if complete else []
    done, expected = sum(map(len, table.values())), samples * len(table)
    finished = bool(complete) and done == expected
    reached = [p.accuracy for p in points if p.accuracy is not None]
    metrics = Metrics(
        schema=SCHEMA,
        model=config.model,
        benchmark=config.benchmark,
        benchmark_version=config.benchmark_version,
        questions_sha256=run.questions.sha256,
        grading=grading or config.grading,
        exact=all(p.exact for p in points),
        questions=len(questions),
        complete=len(complete),
        done=done,
        expected=expected,
        samples=samples,
        confidence=CONFIDENCE,
        points=points,
        control=_controls(policies, points, cells),
        scaling_per_doubling=per_doubling,
        robust_scaling_per_doubling=robust_per_doubling,
        scaling_per_1k=per_1k,
        robust_scaling_per_1k=robust_per_1k,
        performance=performance(reached) if finished else None,
        flips=tuple(_flip(*step, cells, scores, samples) for step in steps),
        ladders=tuple(_ladder(keys, complete, cells, samples) for keys in _ladders(policies) if complete),
        smallest_difference=100 * smallest_difference(len(complete)) if complete else None,
        advice=advise([p.price for p in points], scores) if finished else None,
    )
    return from_json(Metrics, _rounded(to_json(metrics)))


def _table(
    generations: Iterable[Generation],
    grades: Mapping[Key, Grade],
    ids: Sequence[str],
    keys: Sequence[str],
    samples: int,
) -> dict[tuple[str, str], dict[int, GradedGeneration]]:
    """(policy, question) -> sample -> generation and grade, with an empty entry where nothing was generated."""
    table: dict[tuple[str, str], dict[int, GradedGeneration]] = {(p, q): {} for p in keys for q in ids}
    for g in generations:
        if (g.policy, g.question_id) not in table or not 0 <= g.sample < samples:
            raise BadInput(
                f"The generation {tuple(key_of(g))} has a policy, question or sample that is not in the run.",
                "Remove it from generations.jsonl, or repeat the run in a new folder.",
            )
        if key_of(g) not in grades:
            raise BadInput(f"The generation {tuple(key_of(g))} has no grade.", "Grade the run again.")
        table[g.policy, g.question_id][g.sample] = GradedGeneration(g, grades[key_of(g)])
    return table


def _point(policy: PolicyRecord, cell: Sequence[GradedGeneration], samples: int, kind: str) -> Point:
    scores = _by_question([g.right for g in cell], samples)
    interval = accuracy_interval(scores) if cell else None
    counts = Counter(g.grade.outcome for g in cell)
    unanswered = counts["cut"] + counts["no answer"] + counts["error"]
    whole = [g for g in cell if not g.failed]
    generations, spent = [g.generation for g in whole], [g.spent for g in whole]
    tokens = [g.thinking_tokens for g in generations]
    at_k = _at_k(cell, samples, kind) if samples > 1 and cell else (None, None)
    return Point(
        key=policy.key,
        label=policy.label,
        kind=policy.kind,
        max_thinking=policy.max_thinking,
        min_thinking=policy.min_thinking,
        waits=policy.waits,
        wait=policy.wait,
        n=len(scores),
        accuracy=100 * interval.mean if interval else None,
        low=100 * interval.low if interval else None,
        high=100 * interval.high if interval else None,
        interval=interval.how if interval else None,
        accuracy_best=100 * (counts["right"] + unanswered) / len(cell) if cell else None,
        thinking_tokens=_mean(tokens),
        thinking_tokens_median=statistics.median(tokens) if tokens else None,
        thinking_tokens_max=max(tokens, default=None),
        spent=MeanSpent(*(_mean([getattr(s, f.name) for s in spent]) for f in fields(MeanSpent))),
        answer_tokens=_mean([g.answer_tokens for g in generations]),
        waits_appended=_mean([g.waits for g in generations]),
        forced_share=_mean([share for g in whole if (share := g.forced_share) is not None]),
        cut_share=_mean([100 * g.cut for g in generations]),
        outcomes={outcome: counts[outcome] for outcome in get_args(Outcome)},
        seconds=_mean([g.seconds for g in generations]),
        exact=all(g.generation.exact for g in cell),
        pass_at_k=at_k[0],
        maj_at_k=at_k[1],
    )


def _at_k(
    cell: Sequence[GradedGeneration], samples: int, kind: str
) -> tuple[dict[str, float], dict[str, float]]:
    """pass@k and maj@k in percent for k = 1, 2, 4, ... and all samples, averaged over questions."""
    sizes = sorted({2**i for i in range(samples.bit_length()) if 2**i <= samples} | {samples})
    passed, voted = defaultdict[str, list[float]](list), defaultdict[str, list[float]](list)
    for start in range(0, len(cell), samples):
        group = cell[start : start + samples]
        answers, right = [g.grade.extracted for g in group], [g.right for g in group]
        for k in sizes:
            passed[str(k)].append(100 * pass_at_k(samples, sum(right), k))
            voted[str(k)].append(100 * maj_at_k(answers, right, k, kind))
    means = [{k: statistics.fmean(each) for k, each in found.items()} for found in (passed, voted)]
    return means[0], means[1]


def _controls(
    policies: Sequence[PolicyRecord], points: Sequence[Point], cells: Cells
) -> tuple[MethodControl, ...]:
    """Control of each method, per run (on its mean, as in the paper) and per sample, over its policies with a bound.

    A run that asks for a "short" or "long" amount of thinking must be below or above the natural end.
    """
    natural = next((p.thinking_tokens for p in points if p.kind == "natural"), None)
    means, samples = defaultdict[str, list[Bounded]](list), defaultdict[str, list[Bounded]](list)
    for policy, point in zip(policies, points, strict=True):
        low: float | None = policy.min_thinking
        high: float | None = policy.max_thinking
        if policy.amount:
            low, high = (natural, None) if policy.amount == "long" else (None, natural)
        if point.thinking_tokens is not None and not (low is None and high is None):
            method = "budget forcing" if policy.kind in FORCED_KINDS else policy.kind
            means[method].append((point.thinking_tokens, low, high))
            whole = (g.generation for g in cells[policy.key] if not g.failed)
            samples[method] += [(g.thinking_tokens, low, high) for g in whole]
    return tuple(
        MethodControl(method, len(runs), control(runs) or 0.0, control(samples[method]))
        for method, runs in means.items()
    )


def _resampled(cells: Cells, samples: int, n: int, draws: int) -> tuple[Floats, Floats]:
    """Mean thinking tokens spent, and accuracies in percent, of every policy in every draw: (draws, policies)."""
    import numpy as np

    if not n:
        return np.empty((0, len(cells))), np.empty((0, len(cells)))

    def per_question(values: Iterable[Sequence[float]]) -> Floats:
        return np.array([_by_question(column, samples) for column in values]).T

    right = per_question([g.right for g in cell] for cell in cells.values())
    whole = per_question([not g.failed for g in cell] for cell in cells.values())
    spent = per_question([0 if g.failed else g.spent.thinking for g in cell] for cell in cells.values())
    tokens, accuracies = [], []
    for block in weights(n, draws=draws):
        with np.errstate(invalid="ignore", divide="ignore"):
            tokens.append((block @ spent) / (block @ whole))
        accuracies.append(100 * (block @ right))
    return np.concatenate(tokens), np.concatenate(accuracies)


def _slopes(
    points: Sequence[Point], tokens: Floats, accuracies: Floats, per: Unit
) -> tuple[Slope | None, Slope | None]:
    """Scaling and robust scaling with intervals: over budget forcing where it has two points, else over the one other
    method of the run together with the natural end; None where there are several other methods.

    Points without thinking tokens have no place on a log2 axis and are left out there.
    """
    import numpy as np

    forced = [i for i, p in enumerate(points) if p.kind in FORCED_KINDS]
    others = {p.kind for p in points} - {*FORCED_KINDS}
    chosen = forced if len(forced) > 1 else range(len(points)) if len(others) < 2 else ()
    used = [i for i in chosen if points[i].spent.thinking is not None and (points[i].cost > 0 or per == "1k")]
    x, y = [points[i].cost for i in used], [points[i].accuracy or 0.0 for i in used]
    slopes = pair_slopes(tokens[:, used], accuracies[:, used], per)
    slopes = slopes[np.isfinite(slopes).any(axis=1)]

    def slope(value: float | None, average: Any) -> Slope | None:
        return None if value is None else Slope(value, *bounds(average(slopes, axis=1)))

    return slope(scaling(x, y, per), np.nanmean), slope(robust_scaling(x, y, per), np.nanmedian)


def _ladders(policies: Sequence[PolicyRecord]) -> list[tuple[str, ...]]:
    """Keys in the order of rising budget: the limits and the natural end, then it and the waits with each string."""
    natural = [p.key for p in policies if p.kind == "natural"][:1]
    budgets = sorted((p for p in policies if p.kind == "budget"), key=lambda p: p.max_thinking or 0)
    waits: dict[tuple[str, ...], list[PolicyRecord]] = defaultdict(list)
    for policy in policies:
        if policy.kind == "wait":
            waits[policy.wait].append(policy)
    ladders = [[*[p.key for p in budgets], *natural]]
    for chain in waits.values():
        ladders.append([*natural, *[p.key for p in sorted(chain, key=lambda p: (p.waits, p.key))]])
    return [tuple(keys) for keys in ladders if len(keys) > 1]


def _ladder(keys: tuple[str, ...], questions: Sequence[str], cells: Cells, samples: int) -> BudgetLadder:
    """Where correctness falls from one policy to a later one."""
    fallen = []
    for at, rights in enumerate(zip(*([g.right for g in cells[key]] for key in keys), strict=True)):
        if any(before and not after for before, after in itertools.pairwise(rights)):
            fallen.append(FallenQuestion(questions[at // samples], at % samples, rights))
    counts = Counter(each.question_id for each in fallen)
    share = accuracy_interval([counts[q] / samples for q in questions])
    percents = (100 * share.mean, 100 * share.low, 100 * share.high)
    return BudgetLadder(keys, len(questions), *percents, tuple(fallen))


def _steps(policies: Sequence[PolicyRecord]) -> list[tuple[str, str]]:
    """Keys to compare for flips: the natural end with each wait, and each number of waits with the one before."""
    natural = [p.key for p in policies if p.kind == "natural"]
    waits = {p.key for p in policies if p.kind == "wait"}
    steps = [(before, p.key) for before in natural[:1] for p in policies if p.key in waits]
    chains = [[key for key in keys if key in waits] for keys in _ladders(policies)]
    return steps + [pair for chain in chains for pair in itertools.pairwise(chain)]


def _flip(before: str, after: str, cells: Cells, scores: Mapping[str, Sequence[float]], samples: int) -> Flip:
    found = flips(*([g.right for g in cells[key]] for key in (before, after)))
    change = paired_difference(scores[before], scores[after])
    return Flip(
        before, after, len(scores[before]), found.wrong_to_right, found.right_to_wrong,
        found.p if samples == 1 else None, 100 * change.mean, 100 * change.low, 100 * change.high,
    )  # fmt: skip


def _by_question(values: Sequence[float], samples: int) -> list[float]:
    """Means over the samples of each question."""
    return [sum(values[i : i + samples]) / samples for i in range(0, len(values), samples)]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _rounded(value: Any) -> Any:
    """Six decimals (p: four digits), so that the order of a sum does not show in the file."""
    if isinstance(value, float):
        return float(round(value, 6)) + 0.0
    if isinstance(value, Mapping):
        return {k: float(f"{v:.4g}") if k == "p" and v is not None else _rounded(v) for k, v in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
