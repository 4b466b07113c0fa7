"""The funnel as a figure: the rows that entered each stage, those that stayed, and why the others were dropped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.errors import require

if TYPE_CHECKING:
    from s1.data.ledger import Stage

INK, KEPT, DROPPED = "#222222", "#2B6CB0", "#E2E8F0"
MOST_REASONS = 3


def funnel_figure(stages: Sequence[Stage], path: Path) -> None:
    """Writes a PNG. Equal counts give equal bytes with the same matplotlib.

    Raises MissingExtra without matplotlib.
    """
    require("report")
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    settings: Any = {"font.size": 10, "text.parse_math": False}
    with matplotlib.rc_context({**dict(matplotlib.rcParamsDefault), **settings, "backend": "agg"}):
        figure = Figure(figsize=(8.0, 0.9 + 0.75 * len(stages)), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure.add_subplot(), stages)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def _draw(axes: Any, stages: Sequence[Stage]) -> None:
    most = max((s.rows_in for s in stages), default=1) or 1
    for at, stage in enumerate(stages):
        axes.barh(at, stage.rows_in, height=0.5, color=DROPPED)
        axes.barh(at, stage.rows_out, height=0.5, color=KEPT)
        axes.text(most * 1.01, at, f"{stage.rows_out:,}", va="center", color=INK)
        if stage.dropped:
            axes.text(0, at + 0.28, _reasons(stage), va="top", color=INK, fontsize=8)
    axes.set_yticks(range(len(stages)), [s.name for s in stages])
    axes.set_ylim(len(stages) - 0.35, -0.5)
    axes.set_xlim(0, most * 1.12)
    axes.set_xlabel("rows: in (grey) and kept (blue)")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)


def _reasons(stage: Stage) -> str:
    first = [f"{reason} {count:,}" for reason, count in list(stage.dropped.items())[:MOST_REASONS]]
    rest = sum(list(stage.dropped.values())[MOST_REASONS:])
    text = "dropped: " + ", ".join(first) + (f", other reasons {rest:,}" if rest else "")
    return text if len(text) <= 110 else text[:109] + "…"
