"""Results as text for a terminal: the metrics of a run, two runs compared, graders compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from s1.evals.metrics import Metrics, Slope
from s1.report.curve import candidate_text, has_rollouts, incomplete_text
from s1.terminal import visible

if TYPE_CHECKING:
    from s1.evals.compare_graders import GraderComparison
    from s1.evals.compare_runs import PolicyComparison

FALLEN = 3
"""Questions named for each ladder of budgets; metrics.json has all."""


def metrics_text(metrics: Metrics) -> str:
    """The points of a run as a table, and below it the metrics of section 3.2 and the advice.

    A run that stopped early is called so in the first line.
    """
    several = has_rollouts(metrics)
    rows = [["policy", "accuracy", "95 % interval", "n", "thinking tokens", *["of all rollouts"] * several]]
    for p in metrics.points:
        cells = [p.label, _number(p.accuracy, " %"), f"{_number(p.low)} to {_number(p.high)}", str(p.n)]
        rows.append([*cells, _number(p.thinking_tokens), *[_number(p.spent.thinking)] * several])
    lines = [*columns(rows), *_summary(metrics), *_ladders(metrics), *_advice(metrics)]
    if warning := incomplete_text(metrics):
        lines.insert(0, warning)
    failed = sum(p.outcomes["error"] for p in metrics.points)
    if failed:
        lines.append(
            f"{failed} requests failed; generations.jsonl has the reason of each in its field error."
        )
    if not metrics.exact:
        lines.append("Token counts are estimates: the engine reported no token ids.")
    return "\n".join(lines)


def comparison_text(rows: Sequence[PolicyComparison], one: object, other: object) -> str:
    """Two runs compared policy by policy, and for each policy which run is better, if that can be said."""
    head = [
        "policy",
        "this",
        "other",
        "difference",
        "95 % interval",
        "n",
        "only this right",
        "only other right",
        "p",
    ]
    body = [
        [
            row.policy if row.policy == row.against else f"{row.policy} | {row.against}",
            f"{row.accuracy:.1f} %",
            f"{row.accuracy_against:.1f} %",
            f"{row.difference:+.1f}",
            f"{row.low:+.1f} to {row.high:+.1f}",
            str(row.n),
            "-" if row.only_this_right is None else str(row.only_this_right),
            "-" if row.only_against_right is None else str(row.only_against_right),
            "-" if row.p is None else f"{row.p:.2g}",
        ]
        for row in rows
    ]
    lines = [f"{one} (this) against {other} (other), points of accuracy, paired by question"]
    return "\n".join([*lines, *columns([head, *body]), *map(_verdict, rows)])


def graders_text(compared: Sequence[GraderComparison], n: Mapping[str, int]) -> str:
    """The generations on which graders disagree, each under every grader, and the counts `n` in one line."""
    lines: list[str] = []
    for c in compared:
        if c.disagree:
            verdict = {None: "-", True: "right", False: "wrong"}[c.judge]
            lines.append(f"{c.question_id}  sample {c.sample}  {c.policy}   gold: {_short(c.gold)}")
            for name, grade in (("strict", c.strict), ("official", c.official)):
                lines.append(f"    {name:9} {grade.outcome:10} {_short(grade.extracted)}  ({grade.how})")
            lines.append(f"    {'judge':9} {verdict}")
    judged = f", judge {n['judge']} of the {n['judged']} it was asked" if n["judged"] else ""
    lines.append(
        f"{n['generations']} answers: strict calls {n['strict']} right, official {n['official']}{judged}; "
        f"they disagree on {n['disagree']}."
    )
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def _summary(metrics: Metrics) -> list[str]:
    """Control, Scaling and Performance with their units and intervals."""
    parts = [] if metrics.performance is None else [f"Performance {metrics.performance:.1f} %"]
    controls = [
        f"{c.per_run:.1f} % of runs, {_number(c.per_sample, ' %')} of samples" for c in metrics.control
    ]
    lines = []
    if len(controls) > 1:
        lines = [f"Control of {c.method} {text}" for c, text in zip(metrics.control, controls, strict=True)]
    else:
        parts = [f"Control {text}" for text in controls] + parts
    lines += ["   ".join(parts)] * bool(parts)
    for mean, robust, unit in (
        (metrics.scaling_per_doubling, metrics.robust_scaling_per_doubling, "per doubling"),
        (metrics.scaling_per_1k, metrics.robust_scaling_per_1k, "per 1,000 tokens"),
    ):
        if mean and robust:
            lines.append(f"Scaling {_slope(mean)} points {unit}, robust (Theil-Sen) {_slope(robust)}")
    return lines


def _ladders(metrics: Metrics) -> list[str]:
    """The questions that a larger budget turned from right to wrong: how many, and the first few of them."""
    if not metrics.ladders:
        return []
    rows = [["right at one budget, wrong at a larger one", "questions", "95 % interval", "n"]]
    named = []
    for ladder in metrics.ladders:
        labels = [metrics.point(key).label for key in ladder.policies]
        rows.append(
            [
                ", ".join(labels),
                f"{ladder.not_monotone:.1f} %",
                f"{ladder.low:.1f} to {ladder.high:.1f}",
                str(ladder.n),
            ]
        )
        for each in ladder.questions[:FALLEN]:
            sample = f" sample {each.sample}" if metrics.samples > 1 else ""
            marks = ", ".join(
                f"{label} {'right' if right else 'wrong'}"
                for label, right in zip(labels, each.right, strict=True)
            )
            named.append(f"  {each.question_id}{sample}: {marks}")
        if len(ladder.questions) > FALLEN:
            named.append(f"  and {len(ladder.questions) - FALLEN} more in metrics.json")
    return ["", *columns(rows), *named]


def _advice(metrics: Metrics) -> list[str]:
    lines, advice = [], metrics.advice
    if advice and len(metrics.points) > 1:
        best, policy = metrics.point(advice.best).label, metrics.point(advice.policy).label
        margin = f"{advice.margin:g} points"
        if rivals := [repr(metrics.point(key).label) for key in advice.rivals]:
            lines.append(
                f"{best!r} has the highest accuracy, but is not shown to be better than {', '.join(rivals)}."
            )
        if policy == best:
            lines.append(f"Advice: {best!r} is the best; none cheaper is shown to be within {margin} of it.")
        else:
            lines.append(
                f"Advice: {policy!r} is the cheapest that is not worse than the best, {best!r}, by more than "
                f"{margin} (95 % confidence)."
            )
        if candidate := candidate_text(metrics):
            lines.append(candidate)
    if metrics.smallest_difference is not None:
        lines.append(
            f"{metrics.complete:,} questions show a difference of {metrics.smallest_difference:.1f} points or more "
            "between two policies."
        )
    return lines


def _verdict(row: PolicyComparison) -> str:
    if row.low > 0 or row.high < 0:
        better = "this" if row.low > 0 else "the other"
        return f"{row.policy}: {better} run is better (95 % confidence)."
    return (
        f"{row.policy}: {row.n:,} questions cannot tell; they would show a difference of "
        f"{row.smallest_difference:.1f} points."
    )


def _short(text: str | None, most: int = 60) -> str:
    flat = " ".join((text or "-").split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def _number(value: float | None, unit: str = "") -> str:
    return "-" if value is None else f"{value:.1f}{unit}"


def _slope(slope: Slope) -> str:
    return f"{slope.value:.1f} ({slope.low:.1f} to {slope.high:.1f})"
