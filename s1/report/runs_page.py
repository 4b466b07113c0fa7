"""One HTML file that lists several runs and shows their scaling curves on the same axes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from s1.errors import BadInput
from s1.evals.metrics import Metrics, read_metrics
from s1.jsonl import write_bytes
from s1.report.curve import OTHER_STYLES, WAIT_STYLES, dots_of, incomplete_text
from s1.report.figures import overlay_figure
from s1.report.markup import number, rendered, table, tokens
from s1.report.page import PAGE
from s1.run_commands import read_commands

COLOURS = ("#0072B2", "#D55E00", "#009E73", *(c for c, _ in (*WAIT_STYLES[1:], *OTHER_STYLES)))
"""One for each run, repeated where there are more."""


def write_runs_page(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the page of graded run folders to the file `out`; it links to the pages of the runs.

    Raises BadInput for a folder that is not that of a graded run, or is named twice, and MissingExtra without
    matplotlib.
    """
    paths, out = [Path(folder) for folder in folders], Path(out)
    if len({path.resolve() for path in paths}) < len(paths):
        raise BadInput("A run is named twice.", "Name each folder once.")
    if out.is_dir():
        raise BadInput(f"{out} is a folder.", f"Name a file, such as {out / 'runs.html'}.")
    found = [(path, read_metrics(path)) for path in paths]
    coloured, pages, rows = list[tuple[str, str, Metrics]](), dict[str, str](), []
    for at, (name, (path, metrics)) in enumerate(zip(_names(paths), found, strict=True)):
        colour = COLOURS[at % len(COLOURS)]
        if (path / PAGE).exists():
            pages[name] = quote(os.path.relpath(path / PAGE, out.parent))
        coloured.append((name, colour, metrics))
        rows.append(_row(at, name, colour, path, metrics, pages.get(name, "")))
    head = ["run", "model", "benchmark", "n", "natural end %", "best %", "with", "thinking tokens",
            "points per doubling", "grading", "began"]  # fmt: skip
    benchmarks = ", ".join(dict.fromkeys(m.benchmark for _, m in found))
    content = rendered(
        "runs.html",
        ("sort.js", "runs.js"),
        title=escape(f"{len(paths)} runs on {benchmarks}"),
        caption="accuracy against thinking tokens · bars: 95 % intervals",
        warning="".join(f'<p class="warning" role="alert">{escape(text)}</p>' for text in _warnings(found)),
        curve=overlay_figure(coloured, pages),
        table=table(head, rows),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, content)
    return out


def _names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path, and as many before it as tell the runs apart."""
    whole = [path.resolve().parts for path in paths]
    for length in range(1, max(map(len, whole)) + 1):
        names = ["/".join(parts[-length:]) for parts in whole]
        if len(set(names)) == len(names):
            break
    return names


def _warnings(found: Sequence[tuple[Path, Metrics]]) -> list[str]:
    """What must be known before the curves are compared."""
    warnings = [f"{path}: {text}" for path, metrics in found if (text := incomplete_text(metrics))]
    for what, values in (
        ("questions", {m.questions_sha256 for _, m in found}),
        ("grading", {m.grading for _, m in found}),
    ):
        if len(values) > 1:
            warnings.append(
                f"The runs differ in their {what}, so their accuracies cannot be compared directly."
            )
    return warnings


def _row(at: int, name: str, colour: str, path: Path, metrics: Metrics, page: str) -> tuple[str, list[str]]:
    """A run in the table: what it was, and its best policy."""
    natural = next((p for p in metrics.points if p.kind == "natural"), None)
    dots = sorted(dots_of(metrics), key=lambda d: (-d.accuracy, d.point.cost))
    best, slope, commands = dots[0].point if dots else None, metrics.scaling_per_doubling, read_commands(path)
    shown = f'<a href="{escape(page)}">{escape(name)}</a>' if page else escape(name)
    cells = [
        f'<label><input type="checkbox" checked data-run="{at}" aria-label="show {escape(name)}">'
        f'<span aria-hidden="true" style="color:{colour}">●</span></label> {shown}',
        escape(metrics.model),
        escape(metrics.benchmark),
        f"{metrics.complete:,}",
        number(natural.accuracy if natural else None),
        number(best.accuracy if best else None),
        escape(best.label) if best else "none",
        tokens(best.cost if best else None),
        number(slope.value if slope else None),
        escape(metrics.grading),
        commands[0].began[:16].replace("T", " ") if commands else "none",
    ]
    return "<tr>", cells
