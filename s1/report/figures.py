"""The scaling figure of the paper: accuracy against thinking tokens on a log2 axis, as PNG and SVG.

Equal metrics give equal bytes with the same matplotlib: no date, no random ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s1.errors import BadInput, MissingExtra
from s1.report.layout import (
    OTHERS,
    STYLES,
    WAIT_COLOURS,
    Style,
    axis_of,
    caption,
    default_title,
    is_other,
    label_of,
    others_of,
    series_of,
    spots_of,
    ticks_of,
    x_of,
)

INK, FAINT = "#222222", "#DDDDDD"


def scaling_figure(
    metrics: Mapping[str, Any], folder: str | Path, *, name: str = "scaling", title: str | None = None
) -> tuple[Path, Path]:
    """Write `name`.png and `name`.svg into `folder` and return their paths.

    Raises BadInput when the metrics hold no point with an accuracy, MissingExtra without matplotlib.
    """
    points = [p for p in metrics["points"] if p["accuracy"] is not None and p["thinking_tokens"] is not None]
    if not points:
        raise BadInput(
            "There is no point to draw: no question was finished by every policy.", "Go on with the run."
        )
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "report") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    paths = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    settings: Any = {"svg.hashsalt": "s1", "font.size": 11, "axes.edgecolor": INK, "text.parse_math": False}
    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **settings, "backend": "agg"}):
        figure = Figure(figsize=(7.6, 4.9), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), points, metrics, title)
        figure.savefig(paths[0], dpi=200, metadata={"Software": None})
        figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths


def _draw(
    axes: Any, points: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any], title: str | None
) -> None:
    xs = dict(zip((p["policy"] for p in points), x_of(points), strict=True))
    strings, others = 0, others_of(points)
    for (kind, name), group in series_of(points).items():
        style = _style(kind, others)
        if kind == "wait":
            style = style._replace(colour=WAIT_COLOURS[strings % 4], marker="^v<>"[strings % 4])
            strings += 1
        x, y = [xs[p["policy"]] for p in group], [p["accuracy"] for p in group]
        bars = [[p["accuracy"] - p["low"] for p in group], [p["high"] - p["accuracy"] for p in group]]
        axes.errorbar(
            x, y, yerr=bars, fmt="none", ecolor=style.colour, elinewidth=1.3, capsize=3, alpha=0.5, zorder=2
        )
        axes.plot(
            x, y, linestyle={"budget": "-", "wait": ":", "natural": "none"}.get(kind, "--"),
            linewidth=1.8, color=style.colour, marker=style.marker, markersize=8,
            markeredgecolor="white", label=name, zorder=4 if kind == "natural" else 3,
        )  # fmt: skip
    _label(axes, points, xs)
    _frame(axes, points, xs)
    axes.set_title(title or default_title(metrics), loc="left", fontsize=13, fontweight="bold", pad=24)
    axes.text(0, 1.03, caption(metrics), transform=axes.transAxes, fontsize=9.5, color="#555555")
    size = 10 if len(others) < 3 else 8
    axes.legend(loc="best", frameon=True, framealpha=0.92, edgecolor="none", fontsize=size)


def _style(kind: str, others: Mapping[str, int]) -> Style:
    return STYLES[kind] if kind in STYLES else OTHERS[others[kind]]


def _label(axes: Any, points: Sequence[Mapping[str, Any]], xs: Mapping[str, float]) -> None:
    """Labels beside the dots: budgets and the natural end below right, waits above their bars, others below.

    Budgets that nothing reaches lie on one spot; they share one label.
    """
    others, right_of = others_of(points), 0.1 * min(xs.values()) + 0.9 * max(xs.values())
    for spot in spots_of(points, xs):
        first = spot[0]
        style = _style(first["kind"], others)
        y, place, ha, va = first["accuracy"], (8, -5), "left", "top"
        if first["kind"] == "wait":
            y, place, ha, va = max(p["high"] for p in spot), (0, 3), "center", "bottom"
        elif is_other(first):  # long labels: below their bars, and inside the frame
            y, place = min(p["low"] for p in spot), (0, -3)
            ha = "right" if xs[first["policy"]] > right_of else "center"
        axes.annotate(
            ", ".join(dict.fromkeys(map(label_of, spot))), (xs[first["policy"]], y), textcoords="offset points",
            xytext=place, fontsize=9, zorder=5, ha=ha, va=va, color=style.colour if len(spot) == 1 else INK,
        )  # fmt: skip


def _frame(axes: Any, points: Sequence[Mapping[str, Any]], xs: Mapping[str, float]) -> None:
    low, high = min(xs.values()), max(xs.values())
    axes.set_xticks(*zip(*ticks_of(points), strict=True))
    margin = 0.06 * (high - low or 1.0)
    axes.set_xlim(low - margin, high + 1.6 * margin)
    bottom, top = min(p["low"] for p in points), max(p["high"] for p in points)
    pad = max(4.0, 0.08 * (top - bottom))
    axes.set_ylim(max(-1.5, bottom - pad), min(101.5, top + pad))
    axes.set_xlabel(f"{axis_of(points)} (log scale)")
    axes.set_ylabel("accuracy (%)")
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
