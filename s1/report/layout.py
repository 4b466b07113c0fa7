"""Where the dots of a scaling curve go and what they are called, for the figure and for the page alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Style(NamedTuple):
    """How one kind of point is drawn. Colours of Okabe and Ito, told apart by shape as well."""

    name: str
    colour: str
    marker: str


STYLES = {
    "budget": Style("thinking cut at a budget", "#0072B2", "o"),
    "natural": Style("natural end of thinking", "#009E73", "D"),
    "wait": Style("natural end put off by waits (1×, 2×, ...)", "#D55E00", "^"),
}
WAIT_COLOURS = ("#D55E00", "#CC79A7", "#8A6D00", "#56B4E9")
"""One for each wait string, where a run has several."""
OTHERS = (
    Style("", "#7A4E9F", "s"),
    Style("", "#3A7D8C", "p"),
    Style("", "#B0413E", "X"),
    Style("", "#7F8C3A", "h"),
    Style("", "#8C5A3C", "P"),
    Style("", "#5B6C9E", "*"),
    Style("", "#A06A00", "<"),
    Style("", "#2E8B57", ">"),
    Style("", "#666666", "v"),
)
"""One for each other kind (s1.methods), in the order of the legend, over again where there are more."""


def thinking_of(point: Mapping[str, Any]) -> float | None:
    """Mean thinking tokens a question: of all rollouts where a method makes several."""
    spent: float | None = (point.get("spent") or {}).get("thinking")
    own: float | None = point["thinking_tokens"]
    return own if spent is None else spent


def is_other(point: Mapping[str, Any]) -> bool:
    return point["kind"] not in STYLES


def others_of(points: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The number of each other kind, in the order of the legend."""
    kinds = [kind for kind, _ in series_of(points) if kind not in STYLES]
    return {kind: i % len(OTHERS) for i, kind in enumerate(dict.fromkeys(kinds))}


def axis_of(points: Sequence[Mapping[str, Any]]) -> str:
    """What the horizontal axis counts."""
    several = any(((p.get("spent") or {}).get("rollouts") or 1) > 1 for p in points)
    return "mean thinking tokens of all rollouts" if several else "mean thinking tokens"


def x_of(points: Sequence[Mapping[str, Any]]) -> list[float]:
    """log2 of the thinking tokens; a point with none stands two doublings below the smallest other."""
    tokens = [thinking_of(p) or 0 for p in points]
    some = [t for t in tokens if t > 0]
    floor = math.log2(min(some)) - 2 if some else 0.0
    return [math.log2(t) if t > 0 else floor for t in tokens]


def label_of(point: Mapping[str, Any]) -> str:
    """A short label for a dot: the budget, how many waits, or else the label of the policy."""
    if point["kind"] == "budget" and point.get("max_thinking") is not None:
        return f"{point['max_thinking']:,}"
    if point["kind"] == "wait":
        return f"{point['waits']}×"
    return str(point["policy"])


def series_of(points: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """The points that belong on one line, by (kind, what the legend says), left to right."""
    waits = {repr(p.get("wait")) for p in points if p["kind"] == "wait"}
    series: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for p in sorted(points, key=lambda p: thinking_of(p) or 0):
        name = STYLES[p["kind"]].name if p["kind"] in STYLES else str(p["kind"])
        if p["kind"] == "wait" and len(waits) > 1:
            name = f"{name} {_said(p.get('wait'))}"
        series.setdefault((p["kind"], name), []).append(p)
    return dict(sorted(series.items(), key=lambda item: (list(STYLES) + [item[0][0]]).index(item[0][0])))


def default_title(metrics: Mapping[str, Any]) -> str:
    """Model and benchmark where the metrics name them."""
    names = [str(metrics[k]) for k in ("model", "benchmark") if metrics.get(k)]
    return " on ".join(names) if names else "Accuracy by thinking tokens"


def caption(metrics: Mapping[str, Any]) -> str:
    """How many questions and samples, and what the bars are."""
    points, samples = metrics["points"], metrics.get("samples", 1)
    text = f"n = {points[0]['n']:,} questions" if points else "no questions"
    text += f", {samples} samples each" if samples > 1 else ""
    text += f" · bars: {100 * metrics.get('confidence', 0.95):.0f} % intervals"
    return text if metrics.get("exact", True) else text + " · token counts are estimates"


def spots_of(points: Sequence[Mapping[str, Any]], xs: Mapping[str, float]) -> list[list[Mapping[str, Any]]]:
    """Points that share a label: budgets that nothing reaches with the natural end, and equal waits."""
    width = max(xs.values()) - min(xs.values()) or 1.0
    spots: list[list[Mapping[str, Any]]] = []
    for p in sorted(points, key=lambda p: (p["kind"], xs[p["policy"]])):
        for spot in spots:
            first = spot[0]
            near = abs(xs[first["policy"]] - xs[p["policy"]]) < 0.02 * width
            level = abs(p["accuracy"] - first["accuracy"]) < 2.5
            same = p["kind"] == first["kind"] == "wait" and label_of(p) == label_of(first)
            if near and (same or level and "wait" not in (p["kind"], first["kind"])):
                spot.append(p)
                break
        else:
            spots.append([p])
    return spots


def ticks_of(points: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """(place on the log2 axis, label) at powers of two, and at 0 where a point has no tokens."""
    places = x_of(points)
    low, high = min(places), max(places)
    first, last = max(0, math.floor(low)), math.ceil(high)
    step = max(1, round((last - first + 1) / 9))
    ticks = [(float(t), f"{2**t:,}") for t in range(first, last + 1, step)]
    if any(not thinking_of(p) for p in points):
        ticks = [(low, "0"), *(t for t in ticks if t[0] > low + 1)]
    return ticks


def _said(wait: Any) -> str:
    """A wait string, or a cycle of them, in quotes."""
    return "/".join(map(repr, wait)) if isinstance(wait, (list, tuple)) else repr(wait)
