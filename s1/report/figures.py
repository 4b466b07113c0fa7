"""The scaling figure of the paper: accuracy against thinking tokens on a log2 axis, as files and for pages.

Equal metrics give equal bytes with the same matplotlib: no date, no random ids.
"""

from __future__ import annotations

import io
import itertools
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from s1.errors import BadInput, require
from s1.evals.metrics import Metrics, Point
from s1.jsonl import write_bytes
from s1.report.curve import (
    Dot,
    Series,
    axis_of,
    caption_of,
    dots_of,
    name_of,
    series_of,
    spots_of,
    ticks_of,
    title_of,
)
from s1.report.labels import Label, place_labels

INK, FAINT, PAPER = "#222222", "#dddddd", "#ffffff"
THEME = {INK: "var(--ink)", FAINT: "var(--line)", PAPER: "var(--card)"}
"""On a page these follow its light or dark colours."""
KEPT = "!'()*"
"""What JavaScript's encodeURIComponent leaves as it is, too."""
TITLE_WIDTH, CAPTION_WIDTH = 58, 96
"""Characters in a line above the figure."""
PAGE_SIZE = (5.6, 4.5)
"""Inches; smaller than the file's, so that the text can be read where a page is narrow."""


def scaling_figure(
    metrics: Metrics, folder: str | Path, *, name: str = "scaling", title: str | None = None
) -> tuple[Path, Path]:
    """Write `name`.png and `name`.svg into `folder` and return their paths.

    Raises BadInput when no point has an accuracy, MissingExtra without matplotlib.
    """
    dots = dots_of(metrics)
    if not dots:
        raise BadInput(
            f"There is no point to draw: {metrics.done:,} of {metrics.expected:,} generations are there, and no "
            "question was finished by every policy.",
            "Run the same command again, with the same folder, to complete the run.",
        )
    paths = Path(folder) / f"{name}.png", Path(folder) / f"{name}.svg"
    whole = " · ".join(filter(None, (name_of(metrics), caption_of(metrics))))
    caption = "\n".join(textwrap.wrap(whole, CAPTION_WIDTH))
    series = series_of(dots)
    with _figure(series, axis_of(metrics), size=(7.6, 5.2)) as figure:
        heading = "\n".join(textwrap.wrap(title or title_of(metrics), TITLE_WIDTH))
        axes, above = figure.axes[0], 12 * (1 + caption.count("\n")) + 14
        axes.set_title(heading, loc="left", fontsize=13, fontweight="bold", pad=above)
        axes.annotate(
            caption, (0, 1), xycoords="axes fraction", xytext=(0, 8), textcoords="offset points", fontsize=9.5,
            color="#555555",
        )  # fmt: skip
        _label(axes, dots, series)
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
    series = series_of(dots)
    with _figure(series, axis_of(metrics)) as figure:
        _label(figure.axes[0], dots, series)
        return _svg(figure, [_anchor(dot, link(dot.point)) for line in series for dot in line.dots])


def overlay_figure(runs: Sequence[tuple[str, str, Metrics]], pages: Mapping[str, str]) -> str:
    """Several runs on the same axes, as an <svg> element. A run is its name, its colour and its metrics.

    `pages` has the address of a run's page by its name, for the runs that have one; their dots are links.
    """
    lines, anchors, groups = list[Series](), list[str](), list[str]()
    for at, (name, colour, metrics) in enumerate(runs):
        for number, line in enumerate(series_of(dots_of(metrics))):
            legend = name if number == 0 else ""
            groups.append(f"run-{at}")
            lines.append(line._replace(style=line.style._replace(legend=legend, colour=colour)))
            for dot in line.dots:
                anchors.append(
                    _anchor(dot, pages[name] + link(dot.point) if name in pages else "", f"{name} · ")
                )
    if not lines:
        return ""
    with _figure(lines, axis_of(*(metrics for _, _, metrics in runs)), groups=groups) as figure:
        return _svg(figure, anchors)


def link(point: Point) -> str:
    """The fragment that makes the page show the traces of a policy."""
    return f"#policy={quote(point.key, safe=KEPT)}"


def _svg(figure: Any, anchors: Sequence[str]) -> str:
    """The drawn figure as an element, with the tag that opens the link of each dot."""
    figure.patch.set_visible(False)
    for number, drawn in enumerate(figure.axes[0].lines[-len(anchors) :]):
        drawn.set_url(f"dot-{number}")
    file = io.StringIO()
    figure.savefig(file, format="svg")

    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace("*{", ".curve *{", 1)
    svg = re.sub(r"<svg .*?(viewBox=\"[^\"]*\").*?>", r'<svg class="curve" role="img" \1>', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour, variable in THEME.items():
        svg = svg.replace(colour, variable)
    return re.sub(r'<a xlink:href="dot-(\d+)"[^>]*>', lambda found: anchors[int(found[1])], svg)


def _anchor(dot: Dot, href: str, run: str = "") -> str:
    """The tag that opens the link of a dot, with its tooltip; "" is no link."""
    target = f' href="{escape(href)}"' if href else ""
    tip = (
        f"{run}{dot.point.label}: {dot.accuracy:.1f} % [{dot.low:.1f}, {dot.high:.1f}], "
        f"{dot.point.cost:,.0f} thinking tokens"
    )
    return f'<a class="dot"{target}><title>{escape(tip)}</title>'


@contextmanager
def _figure(
    series: Sequence[Series], axis: str, size: tuple[float, float] = PAGE_SIZE, groups: Sequence[str] = ()
) -> Iterator[Any]:
    """A matplotlib figure of the curves, to be saved inside the context. Its last lines are the dots, in order.

    The legend is below the axes, where it covers nothing. With `groups`, one for each line, the ids of a line's
    elements begin with its group.
    """
    require("report")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
    )
    settings: Any = {"svg.hashsalt": "s1", "font.size": 11, "text.parse_math": False, **colours}
    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **settings, "backend": "agg"}):
        entries = [line.style.legend for line in series if line.style.legend]
        columns = 2 if max(map(len, entries)) < 5.8 * size[0] and len(entries) > 2 else 1
        rows = -(-len(entries) // columns)
        figure = Figure(figsize=(size[0], size[1] + 0.2 * max(0, rows - 3)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        numbers = itertools.count()
        drawn = [(line, _draw_line(axes, line)) for line in series]
        for line, artists in drawn:
            for dot in line.dots:
                artists += axes.plot([dot.x], [dot.accuracy], linestyle="none", zorder=4, **_marker(line))
        for group, (_, artists) in zip(groups, drawn, strict=bool(groups)):
            for artist in artists:
                artist.set_gid(f"{group}-{next(numbers)}")
        _frame(axes, [dot for line in series for dot in line.dots])
        axes.set_xlabel(f"{axis} (log scale)")
        figure.legend(loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
        yield figure


def _draw_line(axes: Any, line: Series) -> list[Any]:
    """One line with its intervals, without its dots: each is drawn by itself, so that it can be a link."""
    x, y = [d.x for d in line.dots], [d.accuracy for d in line.dots]
    bars = [[d.accuracy - d.low for d in line.dots], [d.high - d.accuracy for d in line.dots]]
    colour = line.style.colour
    bar = axes.errorbar(
        x, y, yerr=bars, fmt="none", ecolor=colour, elinewidth=1.3, capsize=3, alpha=0.5, zorder=2
    )
    shape = {"budget": "-", "wait": ":", "natural": "none"}.get(line.kind, "--")
    label = line.style.legend or "_"
    axes.plot([], [], linestyle=shape, linewidth=1.8, label=label, **_marker(line))
    return [*bar.get_children(), *axes.plot(x, y, linestyle=shape, linewidth=1.8, color=colour, zorder=3)]


def _marker(line: Series) -> dict[str, Any]:
    style = line.style
    return {"marker": style.marker, "markersize": 8, "markeredgecolor": PAPER, "color": style.colour}


def _label(axes: Any, dots: Sequence[Dot], series: Sequence[Series]) -> None:
    """Write the label of each dot, once for those that lie on one spot."""
    colours = {id(d): line.style.colour for line in series for d in line.dots}
    labels = []
    for spot in spots_of(dots):
        text = ", ".join(dict.fromkeys(d.label for d in spot))
        colour = colours[id(spot[0])] if len(spot) == 1 else INK
        low, high = min(d.low for d in spot), max(d.high for d in spot)
        labels.append(Label(text, spot[0].x, spot[0].accuracy, low, high, colour))
    lines = [[(d.x, d.accuracy) for d in line.dots] for line in series if line.kind != "natural"]
    place_labels(axes, sorted(labels, key=lambda each: each.x), lines)


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
