"""The scaling figure of the paper: accuracy against thinking tokens on a log2 axis, as files and for the page.

Equal metrics give equal bytes with the same matplotlib: no date, no random ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape, unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from s1.errors import BadInput, MissingExtra
from s1.evals.metrics import Metrics, Point
from s1.jsonl import write_bytes
from s1.report.curve import (
    STYLES,
    Dot,
    Series,
    axis_of,
    caption_of,
    dots_of,
    series_of,
    spots_of,
    ticks_of,
    title_of,
)

INK, FAINT = "#222222", "#DDDDDD"
KEPT = "!'()*"
"""What JavaScript's encodeURIComponent leaves as it is, too."""


def scaling_figure(
    metrics: Metrics, folder: str | Path, *, name: str = "scaling", title: str | None = None
) -> tuple[Path, Path]:
    """Write `name`.png and `name`.svg into `folder` and return their paths.

    Raises BadInput when no point has an accuracy, MissingExtra without matplotlib.
    """
    if not dots_of(metrics):
        raise BadInput(
            f"There is no point to draw: {metrics.done:,} of {metrics.expected:,} generations are there, and no "
            "question was finished by every policy.",
            "Run the same command again, with the same folder, to complete the run.",
        )
    paths = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    with _figure(metrics, title or title_of(metrics), caption_of(metrics)) as figure:
        for path, settings in zip(paths, ({"dpi": 200, "metadata": {"Software": None}}, _SVG), strict=True):
            file = io.BytesIO()
            figure.savefig(file, format=path.suffix[1:], **settings)
            write_bytes(path, file.getvalue())
    return paths


_SVG: dict[str, Any] = {"metadata": {"Date": None, "Creator": None}}


def page_figure(metrics: Metrics) -> str:
    """The figure as an <svg> element for the page, where every dot has a tooltip and links to its traces.

    Empty text where no point has an accuracy. Raises MissingExtra without matplotlib.
    """
    dots = dots_of(metrics)
    if not dots:
        return ""
    file = io.StringIO()
    with _figure(metrics) as figure:
        for line in figure.axes[0].lines:
            line.set_url(line.get_gid())
        figure.savefig(file, format="svg")
    tips = {escape(link(dot.point)): escape(_tip(dot)) for dot in dots}

    def anchor(found: re.Match[str]) -> str:
        href = escape(unescape(found[1]))
        return f'<a class="dot" href="{href}"><title>{tips[href]}</title>'

    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("*{", ".curve *{", 1)
    svg = re.sub(r"<svg .*?(viewBox=\"[^\"]*\").*?>", r'<svg class="curve" role="img" \1>', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r'<a xlink:href="(#[^"]*)"[^>]*>', anchor, svg)


def link(point: Point) -> str:
    """The fragment that makes the page show the traces of a policy."""
    return f"#policy={quote(point.key, safe=KEPT)}"


def _tip(dot: Dot) -> str:
    return (
        f"{dot.point.label}: {dot.accuracy:.1f} % [{dot.low:.1f}, {dot.high:.1f}], "
        f"{dot.point.cost:,.0f} thinking tokens"
    )


@contextmanager
def _figure(metrics: Metrics, title: str = "", caption: str = "") -> Iterator[Any]:
    """A matplotlib figure of the curve, to be saved inside the context."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "report") from error
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "s1", "font.size": 11, "axes.edgecolor": INK, "text.parse_math": False}
    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **settings, "backend": "agg"}):
        figure = Figure(figsize=(7.6, 4.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes, dots = figure.add_subplot(), dots_of(metrics)
        series = series_of(dots)
        for line in series:
            _draw(axes, line)
        _label(axes, dots, {d.point.key: line.style.colour for line in series for d in line.dots})
        _frame(axes, dots)
        axes.set_xlabel(f"{axis_of(metrics)} (log scale)")
        axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=24 if caption else None)
        axes.text(0, 1.03, caption, transform=axes.transAxes, fontsize=9.5, color="#555555")
        size = 10 if sum(line.kind not in STYLES for line in series) < 3 else 8
        axes.legend(loc="best", frameon=True, framealpha=0.92, edgecolor="none", fontsize=size)
        yield figure


def _draw(axes: Any, line: Series) -> None:
    """One line with its intervals; each dot is drawn by itself, so that it can be a link."""
    colour, marker = line.style.colour, line.style.marker
    x, y = [d.x for d in line.dots], [d.accuracy for d in line.dots]
    bars = [[d.accuracy - d.low for d in line.dots], [d.high - d.accuracy for d in line.dots]]
    axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=1.3, capsize=3, alpha=0.5, zorder=2)
    markers = {"marker": marker, "markersize": 8, "markeredgecolor": "white", "color": colour}
    shape = {"budget": "-", "wait": ":", "natural": "none"}.get(line.kind, "--")
    axes.plot([], [], linestyle=shape, linewidth=1.8, label=line.style.legend, **markers)
    axes.plot(x, y, linestyle=shape, linewidth=1.8, color=colour, zorder=3)
    for dot in line.dots:
        (drawn,) = axes.plot([dot.x], [dot.accuracy], linestyle="none", zorder=4, **markers)
        drawn.set_gid(link(dot.point))


def _label(axes: Any, dots: Sequence[Dot], colours: dict[str, str]) -> None:
    """Labels: budgets and the natural end below right, waits above their bars, other methods below theirs."""
    right = 0.1 * min(d.x for d in dots) + 0.9 * max(d.x for d in dots)
    for spot in spots_of(dots):
        first = spot[0]
        y, place, ha, va = first.accuracy, (8, -5), "left", "top"
        if first.point.kind == "wait":
            y, place, ha, va = max(d.high for d in spot), (0, 3), "center", "bottom"
        elif first.point.kind not in STYLES:  # long labels: below their bars, and inside the frame
            y, place, ha = min(d.low for d in spot), (0, -3), "right" if first.x > right else "center"
        colour = colours[first.point.key] if len(spot) == 1 else INK
        axes.annotate(
            ", ".join(dict.fromkeys(d.label for d in spot)), (first.x, y), textcoords="offset points",
            xytext=place, fontsize=9, zorder=5, ha=ha, va=va, color=colour,
        )  # fmt: skip


def _frame(axes: Any, dots: Sequence[Dot]) -> None:
    low, high = min(d.x for d in dots), max(d.x for d in dots)
    axes.set_xticks(*zip(*ticks_of(dots), strict=True))
    margin = 0.06 * (high - low or 1.0)
    axes.set_xlim(low - margin, high + 1.6 * margin)
    bottom, top = min(d.low for d in dots), max(d.high for d in dots)
    pad = max(4.0, 0.08 * (top - bottom))
    axes.set_ylim(max(-1.5, bottom - pad), min(101.5, top + pad))
    axes.set_ylabel("accuracy (%)")
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
