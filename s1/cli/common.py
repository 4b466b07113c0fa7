"""The metrics of a run as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(metrics: Mapping[str, Any]) -> str:
    """The points of a run as text, and the three metrics of the paper (section 3.2) in one line."""
    spent = [p.get("spent") or {} for p in metrics["points"]]
    several = any((s.get("rollouts") or 1) > 1 for s in spent)
    rows = [["policy", "accuracy", "95 % interval", "n", "thinking tokens"] + ["of all rollouts"] * several]
    for p, s in zip(metrics["points"], spent, strict=True):
        rows.append(
            [
                str(p["policy"]),
                _number(p["accuracy"], " %"),
                f"{_number(p['low'])} to {_number(p['high'])}",
                str(p["n"]),
                _number(p["thinking_tokens"]),
                *([_number(s.get("thinking"))] if several else []),
            ]
        )
    lines = columns(rows)
    lines += summary_lines(metrics)
    failed = sum(p.get("outcomes", {}).get("error", 0) for p in metrics["points"])
    if failed:
        lines.append(f"{failed} requests failed; the reasons stand in generations.jsonl, field error.")
    if not metrics.get("exact", True):
        lines.append("Token counts are estimates: the engine reported no token ids.")
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def summary_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Control, Scaling and Performance with their units and intervals, and the advice, as sentences."""
    held = [f"Performance {_number(metrics['performance'], ' %')}"]
    if metrics["control"] is not None:
        held.insert(
            0,
            f"Control {_number(metrics['control'], ' %')} of runs, "
            f"{_number(metrics['control_per_sample'], ' %')} of samples",
        )
    lines = ["   ".join(held)]
    for per, unit in (("doubling", "per doubling"), ("1k", "per 1,000 tokens")):
        mean, robust = f"scaling_per_{per}", f"robust_scaling_per_{per}"
        if metrics.get(mean) is not None:
            lines.append(
                f"Scaling {_ranged(metrics, mean)} points {unit}, robust (Theil-Sen) {_ranged(metrics, robust)}"
            )
    return lines + advice_lines(metrics)


def advice_lines(metrics: Mapping[str, Any]) -> list[str]:
    """What to use: the cheapest policy that is not worse than the best, or how many questions would tell."""
    advice, shown = metrics.get("advice"), metrics.get("smallest_difference")
    lines = []
    if advice and len(metrics["points"]) > 1:
        margin = f"{advice['margin']:g} points"
        if advice["policy"] == advice["best"]:
            lines.append(
                f"Advice: {advice['best']!r} is the best; none cheaper is shown to be within {margin} of it."
            )
        else:
            lines.append(
                f"Advice: {advice['policy']!r} is the cheapest that is not worse than the best, "
                f"{advice['best']!r}, by more than {margin} (95 % confidence)."
            )
        if advice["candidate"]:
            lines.append(
                f"{advice['candidate']!r} may do as well for less; about {advice['questions_needed']:,} questions "
                "would tell."
            )
    if shown is not None:
        lines.append(
            f"{metrics['complete']:,} questions show a difference of {shown:.1f} points or more between two policies."
        )
    return lines


def _ranged(metrics: Mapping[str, Any], name: str) -> str:
    return (
        f"{_number(metrics[name])} ({_number(metrics[f'{name}_low'])} to {_number(metrics[f'{name}_high'])})"
    )


def _number(value: Any, unit: str = "") -> str:
    return "-" if value is None else f"{value:.1f}{unit}"
