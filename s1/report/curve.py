"""The scaling curve as inline SVG for the page: its style sheet colours it, every dot links to traces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from s1.report.layout import (
    STYLES,
    axis_of,
    is_other,
    label_of,
    others_of,
    series_of,
    spots_of,
    thinking_of,
    ticks_of,
    x_of,
)

WIDTH, HEIGHT = 680, 370
LEFT, RIGHT, TOP, BOTTOM = 52, 22, 18, 48


def _polygon(corners: int, inner: float = 1.0) -> list[tuple[float, float]]:
    """A regular polygon around 0 with its tip up; with `inner` below 1, a star."""
    points = 2 * corners if inner < 1 else corners
    radii = [6.5 * (inner if inner < 1 and i % 2 else 1) for i in range(points)]
    turns = [2 * math.pi * i / points - math.pi / 2 for i in range(points)]
    return [(r * math.cos(t), r * math.sin(t)) for r, t in zip(radii, turns, strict=True)]


_OTHER_SHAPES = (
    [(-5.0, -5.0), (5.0, -5.0), (5.0, 5.0), (-5.0, 5.0)],
    _polygon(5),
    _polygon(4, 0.45),
    _polygon(6),
    _polygon(3, 0.5),
    _polygon(5, 0.45),
    [(-7.0, 0.0), (5.0, -6.0), (5.0, 6.0)],
    [(7.0, 0.0), (-5.0, -6.0), (-5.0, 6.0)],
    [(0.0, 7.0), (-6.0, -5.0), (6.0, -5.0)],
)
"""As many as `layout.OTHERS`."""


def curve(metrics: Mapping[str, Any]) -> str:
    """An <svg> and a <figcaption> with its legend; empty text where no point has an accuracy."""
    points = [p for p in metrics["points"] if p["accuracy"] is not None and p["thinking_tokens"] is not None]
    if not points:
        return ""
    xs = dict(zip((p["policy"] for p in points), x_of(points), strict=True))
    start, end = min(xs.values()), max(xs.values())
    margin = 0.06 * (end - start or 1.0)
    bottom, top = min(p["low"] for p in points), max(p["high"] for p in points)
    pad = max(4.0, 0.08 * (top - bottom))
    bottom, top = max(-1.5, bottom - pad), min(101.5, top + pad)

    def at_x(value: float) -> float:
        share = (value - start + margin) / (end - start + 2.6 * margin)
        return float(round(LEFT + share * (WIDTH - LEFT - RIGHT), 1))

    def at_y(value: float) -> float:
        return float(round(HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1))

    base = HEIGHT - BOTTOM
    parts = [f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="scaling curve">']
    for place, name in ticks_of(points):
        if LEFT <= at_x(place) <= WIDTH - RIGHT:
            parts.append(f'<path class="grid" d="M{at_x(place)} {TOP}V{base}"/>')
            parts.append(f'<text class="tick" x="{at_x(place)}" y="{base + 17}">{name}</text>')
    step = next(s for s in (1, 2, 5, 10, 20) if (top - bottom) / s <= 8 or s == 20)
    for level in range(0, 101, step):
        if bottom <= level <= top:
            parts.append(f'<path class="grid" d="M{LEFT} {at_y(level)}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text class="tick side" x="{LEFT - 8}" y="{at_y(level) + 4}">{level}</text>')
    parts.append(f'<text class="axis" x="{(LEFT + WIDTH) / 2}" y="{base + 36}">{axis_of(points)}</text>')
    parts.append(
        f'<text class="axis" transform="translate(13 {base / 2 + 8}) rotate(-90)">accuracy (%)</text>'
    )
    keys = []
    strings, others = 0, others_of(points)
    for (kind, name), group in series_of(points).items():
        style = kind if kind in STYLES else f"other other-{others[kind] + 1}"
        if kind == "wait":
            strings += 1
            style = "wait" if strings == 1 else f"wait wait-{min(strings, 4)}"
        spots = [(at_x(xs[p["policy"]]), at_y(p["accuracy"])) for p in group]
        if kind != "natural":
            parts.append(f'<path class="line {style}" d="M{"L".join(f"{x} {y}" for x, y in spots)}"/>')
        for (x, y), p in zip(spots, group, strict=True):
            parts.append(_dot(x, y, at_y(p["low"]), at_y(p["high"]), p, style))
        marker = f'<g class="{style}">{_marker(0, 0, style)}</g>'
        key = f'<svg class="curve key" viewBox="-9 -9 18 18" aria-hidden="true">{marker}</svg>'
        keys.append(f"<span>{key}{escape(name)}</span>")
    for spot in spots_of(points, xs):
        first, names = spot[0], escape(", ".join(dict.fromkeys(map(label_of, spot))))
        x, y = at_x(xs[first["policy"]]), at_y(first["accuracy"])
        style = "mixed"
        if len(spot) == 1:
            kind = str(first["kind"])
            style = kind if kind in STYLES else f"other other-{others[kind] + 1}"
        if first["kind"] == "wait":
            y = at_y(max(p["high"] for p in spot)) - 6
            parts.append(f'<text class="name {style} above" x="{x}" y="{y}">{names}</text>')
        elif is_other(first) and x > (LEFT + WIDTH) / 2:  # long labels stay inside
            parts.append(f'<text class="name {style} side" x="{x - 9}" y="{y + 16}">{names}</text>')
        else:
            parts.append(f'<text class="name {style}" x="{x + 9}" y="{y + 16}">{names}</text>')
    return "".join([*parts, "</svg><figcaption>", *keys, "</figcaption>"])


def link(policy: str) -> str:
    """The fragment that makes the page show the traces of a policy."""
    return f"#policy={quote(policy, safe='')}"


def _dot(x: float, y: float, low: float, high: float, point: Mapping[str, Any], style: str) -> str:
    told = (
        f"{point['policy']}: {point['accuracy']:.1f} % [{point['low']:.1f}, {point['high']:.1f}], "
        f"{thinking_of(point) or 0:,.0f} thinking tokens"
    )
    bar = f'<path class="bar" d="M{x} {low}V{high}M{x - 4} {low}h8M{x - 4} {high}h8"/>'
    return (
        f'<a class="dot {style}" href="{escape(link(point["policy"]))}"><title>{escape(told)}</title>'
        f"{bar}{_marker(x, y, style)}</a>"
    )


def _marker(x: float, y: float, style: str) -> str:
    """A circle, diamond, triangle, square and so on, so that colour is not needed to tell them apart."""
    if style == "budget":
        return f'<circle cx="{x}" cy="{y}" r="5.5"/>'
    shapes: dict[str, list[tuple[float, float]]] = {
        "natural": [(0, -7), (7, 0), (0, 7), (-7, 0)],
        "wait": [(0, -7), (6.5, 5), (-6.5, 5)] if style == "wait" else [(0, 7), (6.5, -5), (-6.5, -5)],
    }
    names = style.split()
    corners = shapes.get(names[0]) or _OTHER_SHAPES[int(names[-1].removeprefix("other-")) - 1]
    return f'<path d="M{"L".join(f"{round(x + a, 1)} {round(y + b, 1)}" for a, b in corners)}Z"/>'
