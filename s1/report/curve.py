"""The scaling curve as data: where its dots go, which lines they form, how they are labelled."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from s1.evals.metrics import Metrics, Point

FEASIBLE = 10
"""Questions needed are named up to this many times those of the run; nobody can follow a hint to find more."""


class Style(NamedTuple):
    """How one kind of point is drawn. Colours of Okabe and Ito, told apart by shape as well."""

    legend: str
    colour: str
    marker: str


STYLES = {
    "budget": Style("thinking cut at a budget", "#0072B2", "o"),
    "natural": Style("natural end of thinking", "#009E73", "D"),
    "wait": Style("natural end put off by waits (1×, 2×, ...)", "#D55E00", "^"),
}
WAIT_STYLES = (("#D55E00", "^"), ("#CC79A7", "v"), ("#8A6D00", "<"), ("#56B4E9", ">"))
"""One for each wait string, where a run has several; repeated where there are more."""
OTHER_STYLES = (
    ("#7A4E9F", "s"), ("#3A7D8C", "p"), ("#B0413E", "X"), ("#7F8C3A", "h"), ("#8C5A3C", "P"), ("#5B6C9E", "*"),
    ("#A06A00", "<"), ("#2E8B57", ">"), ("#666666", "v"),
)  # fmt: skip
"""One for each other method (s1.methods), in the order of the legend; repeated where there are more."""


class Dot(NamedTuple):
    """A point with a known accuracy; `x` is the log2 of its thinking tokens."""

    point: Point
    x: float
    accuracy: float
    low: float
    high: float

    @property
    def label(self) -> str:
        """The budget, the number of waits, or else the label of the policy."""
        if self.point.kind == "budget" and self.point.max_thinking is not None:
            return f"{self.point.max_thinking:,}"
        return f"{self.point.waits}×" if self.point.kind == "wait" else self.point.label


class Series(NamedTuple):
    """Dots on one line, from left to right."""

    kind: str
    style: Style
    dots: list[Dot]


def dots_of(metrics: Metrics) -> list[Dot]:
    """The points that can be drawn. One without thinking tokens is two doublings left of the smallest other."""
    points = [p for p in metrics.points if p.accuracy is not None and p.thinking_tokens is not None]
    some = [p.cost for p in points if p.cost > 0]
    floor = math.log2(min(some)) - 2 if some else 0.0
    return [
        Dot(p, math.log2(p.cost) if p.cost > 0 else floor, p.accuracy or 0.0, p.low or 0.0, p.high or 0.0)
        for p in points
    ]


def series_of(dots: Sequence[Dot]) -> list[Series]:
    """The lines of the curve in the order of the legend: forcing first, each wait string on a line of its own."""
    several = len({d.point.wait for d in dots if d.point.kind == "wait"}) > 1
    lines: dict[tuple[str, tuple[str, ...]], list[Dot]] = {}
    for dot in sorted(dots, key=lambda d: d.point.cost):
        kind = dot.point.kind
        lines.setdefault((kind, dot.point.wait if kind == "wait" else ()), []).append(dot)
    found, waits, others = [], itertools.cycle(WAIT_STYLES), itertools.cycle(OTHER_STYLES)
    for kind, wait in sorted(lines, key=lambda line: [*STYLES, line[0]].index(line[0])):
        style = STYLES.get(kind)
        if style is None:
            style = Style(kind, *next(others))
        elif kind == "wait" and several:
            style = Style(f"{style.legend} {'/'.join(map(repr, wait))}", *next(waits))
        found.append(Series(kind, style, lines[kind, wait]))
    return found


def spots_of(dots: Sequence[Dot]) -> list[list[Dot]]:
    """Dots that share a label: budgets that nothing reaches with the natural end, and equal numbers of waits."""
    width = max(d.x for d in dots) - min(d.x for d in dots) or 1.0
    spots: list[list[Dot]] = []
    for dot in sorted(dots, key=lambda d: (d.point.kind, d.x)):
        for spot in spots:
            first = spot[0]
            kinds = (dot.point.kind, first.point.kind)
            near, level = abs(first.x - dot.x) < 0.02 * width, abs(dot.accuracy - first.accuracy) < 2.5
            same = kinds == ("wait", "wait") and dot.label == first.label
            if near and (same or (level and "wait" not in kinds)):
                spot.append(dot)
                break
        else:
            spots.append([dot])
    return spots


def ticks_of(dots: Sequence[Dot]) -> list[tuple[float, str]]:
    """(place on the log2 axis, label) at powers of two, at 0 where a point has no tokens, and at round numbers where
    the points are so close that fewer than two powers of two lie among them."""
    low, high = min(d.x for d in dots), max(d.x for d in dots)
    first, last = max(0, math.floor(low)), math.ceil(high)
    ticks = [(float(t), f"{2**t:,}") for t in range(first, last + 1, max(1, round((last - first + 1) / 9)))]
    if sum(low <= place <= high for place, _ in ticks) < 2:
        width = high - low or 0.5
        step = 10 ** math.floor(math.log10(2**high * width / 4)) if high > 0 else 1
        values = {max(1, round(2 ** (low + width * k / 4) / step)) * step for k in range(5)}
        ticks = [(math.log2(v), f"{v:,.10g}") for v in sorted(values)]
    if any(d.point.cost == 0 for d in dots):
        ticks = [(low, "0"), *(t for t in ticks if t[0] > low + 1)]
    return ticks


def has_rollouts(metrics: Metrics) -> bool:
    """Whether a method makes several rollouts, so that its cost is more than the tokens of its answer."""
    return any((p.spent.rollouts or 1) > 1 for p in metrics.points)


def axis_of(*runs: Metrics) -> str:
    """What the horizontal axis counts."""
    return "mean thinking tokens" + " of all rollouts" * any(map(has_rollouts, runs))


def name_of(metrics: Metrics) -> str:
    """Model and benchmark, where they are named."""
    named = (("model", metrics.model), ("benchmark", metrics.benchmark))
    return " · ".join(f"{what} {value}" for what, value in named if value)


def title_of(metrics: Metrics) -> str:
    """What the run found: the accuracy with the fewest thinking tokens and the best, or that it is not finished."""
    dots = sorted(dots_of(metrics), key=lambda d: (d.point.cost, d.accuracy))
    if not dots or not metrics.finished:
        return "Accuracy against thinking tokens"
    first, best = dots[0], max(dots, key=lambda d: d.accuracy)
    start = f"{first.accuracy:.0f} % right with {first.point.cost:,.0f} thinking tokens"
    if len(dots) == 1:
        return start
    if best is first:
        return f"{start}; more gave no more"
    return f"{start}, {best.accuracy:.0f} % with {best.point.cost:,.0f}"


def incomplete_text(metrics: Metrics) -> str:
    """What is missing from a run that stopped early, and how to complete it; "" for a finished run."""
    if metrics.finished:
        return ""
    return (
        f"This run is incomplete: {metrics.done:,} of {metrics.expected:,} generations are there, and only the "
        f"{metrics.complete:,} of {metrics.questions:,} questions that every policy finished count. Run the same "
        "command again, with the same folder, to complete it; no policy is called the best before."
    )


def candidate_text(metrics: Metrics) -> str:
    """What would show that the next cheaper policy is as good; "" where there is none that looks so."""
    advice = metrics.advice
    if advice is None or advice.candidate is None or advice.questions_needed is None:
        return ""
    text = f"{metrics.point(advice.candidate).label!r} may do as well for less, but "
    if advice.questions_needed > FEASIBLE * metrics.complete:
        return text + "this benchmark is too small to tell."
    return text + f"it takes about {advice.questions_needed:,} questions to tell."


def caption_of(metrics: Metrics) -> str:
    """How many questions and samples, and what the bars are."""
    stopped = f"incomplete: {metrics.done:,} of {metrics.expected:,} generations · "
    text = stopped * (not metrics.finished) + f"n = {metrics.complete:,} questions"
    text += f", {metrics.samples} samples each" * (metrics.samples > 1)
    text += f" · bars: {100 * metrics.confidence:.0f} % intervals"
    return text + " · token counts are estimates" * (not metrics.exact)
