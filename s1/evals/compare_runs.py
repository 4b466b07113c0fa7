"""Two runs on the same questions, policy by policy, paired."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from s1 import runs
from s1.errors import BadConfig, BadInput, nearest
from s1.evals.intervals import flips, paired_difference, smallest_difference
from s1.evals.metrics import Metrics, Point, read_metrics


@dataclass(frozen=True, slots=True)
class PolicyComparison:
    """One policy of a run minus one of another, in percentage points, with the interval of the difference."""

    policy: str
    """Labels of the two policies."""
    against: str
    n: int
    accuracy: float
    accuracy_against: float
    difference: float
    low: float
    high: float
    interval: str
    only_this_right: int | None
    """Questions; None, as is p, with several samples."""
    only_against_right: int | None
    p: float | None
    smallest_difference: float
    """The true difference that this many questions show with 80 % power."""
    thinking_tokens: float | None
    thinking_tokens_against: float | None


def compare_runs(
    one: str | Path, other: str | Path, policies: tuple[str, str] | None = None
) -> list[PolicyComparison]:
    """`one` minus `other` for every policy that both have, or for one pair named by key or label.

    The samples of a question are averaged first, and only questions that both have graded count. Raises
    BadInput when the questions differ or the runs were graded differently, BadConfig when no policies can be
    paired.
    """
    one, other = Path(one), Path(other)
    _check_questions(one, other)
    metrics = read_metrics(one), read_metrics(other)
    if metrics[0].grading != metrics[1].grading:
        raise BadInput(
            f"{one} was graded as {metrics[0].grading!r}, {other} as {metrics[1].grading!r}.",
            f"Grade them alike: s1 report {other} --grading {metrics[0].grading.split(',')[0]}.",
        )
    shares = right_shares(one), right_shares(other)
    step = 1 / math.lcm(*(each.samples for each in metrics))
    return [
        _paired(mine, theirs, shares[0][mine.key], shares[1][theirs.key], step)
        for mine, theirs in _pairs(one, other, *metrics, policies)
    ]


def right_shares(folder: Path) -> dict[str, dict[str, float]]:
    """Key of the policy -> question -> share of its samples that were right, where all of them are there."""
    samples = runs.read_config(folder).config.samples
    counts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for key, grade in runs.read_grades(folder).items():
        counts[key.policy][key.question_id].append(grade.outcome == "right")
    return {
        policy: {question: sum(each) / len(each) for question, each in cell.items() if len(each) == samples}
        for policy, cell in counts.items()
    }


def _check_questions(one: Path, other: Path) -> None:
    """Raises BadInput where the questions or their reference answers differ."""
    answers = [{q.id: q.answer for q in runs.read_questions(folder)} for folder in (one, other)]
    differing = [key for key in answers[0] | answers[1] if answers[0].get(key) != answers[1].get(key)]
    if differing:
        names = [runs.read_config(folder).config.benchmark for folder in (one, other)]
        first = [repr(each.get(differing[0], "absent")) for each in answers]
        raise BadInput(
            f"The runs have different questions: {len(answers[0])} of {names[0]} in {one}, {len(answers[1])} of "
            f"{names[1]} in {other}. {len(differing)} differ; the reference answer of the first, "
            f"{differing[0]!r}, is {first[0]} and {first[1]}.",
            "Compare runs on the same version of a benchmark with the same --limit.",
        )


def _pairs(
    one: Path, other: Path, mine: Metrics, theirs: Metrics, named: tuple[str, str] | None
) -> list[tuple[Point, Point]]:
    if named is not None:
        return [(_named(one, mine, named[0]), _named(other, theirs, named[1]))]
    by_key = {p.key: p for p in theirs.points}
    if shared := [(p, by_key[p.key]) for p in mine.points if p.key in by_key]:
        return shared
    if len(mine.points) == len(theirs.points) == 1:
        return [(mine.points[0], theirs.points[0])]
    labels = [", ".join(p.label for p in metrics.points) for metrics in (mine, theirs)]
    raise BadConfig(
        f"{one} ({labels[0]}) and {other} ({labels[1]}) have no policy with the same settings in common.",
        "Name one of each: --policies LABEL LABEL.",
    )


def _named(folder: Path, metrics: Metrics, name: str) -> Point:
    found = next((p for p in metrics.points if name in (p.key, p.label)), None)
    if found is None:
        raise BadConfig(f"{folder} has no policy {name!r}.", nearest(name, [p.label for p in metrics.points]))
    return found


def _paired(
    mine: Point, theirs: Point, my_shares: Mapping[str, float], their_shares: Mapping[str, float], step: float
) -> PolicyComparison:
    both = [key for key in my_shares if key in their_shares]
    first, second = ([shares[key] for key in both] for shares in (my_shares, their_shares))
    change = paired_difference(second, first)
    whole = all(share in (0.0, 1.0) for share in (*first, *second))
    found = flips([share == 1 for share in second], [share == 1 for share in first])
    square = sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / len(both)
    return PolicyComparison(
        policy=mine.label,
        against=theirs.label,
        n=len(both),
        accuracy=100 * sum(first) / len(both),
        accuracy_against=100 * sum(second) / len(both),
        difference=100 * change.mean,
        low=100 * change.low,
        high=100 * change.high,
        interval=change.how,
        only_this_right=found.wrong_to_right if whole else None,
        only_against_right=found.right_to_wrong if whole else None,
        p=found.p if whole else None,
        smallest_difference=100 * smallest_difference(len(both), discordant=square, step=step),
        thinking_tokens=mine.thinking_tokens,
        thinking_tokens_against=theirs.thinking_tokens,
    )
