"""One HTML file that shows a run: curve, metrics, a table of the answers and any trace, forced spans marked.

It needs no network and no server. What a model wrote is packed (see `page_traces`) and shown as text, never as
markup; a content security policy admits the page's own script and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from s1.evals.metrics import Metrics, Slope, read_metrics
from s1.jsonl import write_bytes
from s1.report.curve import (
    candidate_text,
    caption_of,
    dots_of,
    has_rollouts,
    incomplete_text,
    name_of,
    series_of,
    title_of,
)
from s1.report.figures import link, page_figure
from s1.report.markup import json_text, number, pairs, rendered, table, tokens
from s1.report.page_traces import pack
from s1.run_commands import CommandRecord, read_commands
from s1.runs import RunRecord, read_config, read_generations, read_grades, read_questions
from s1.terminal import visible

PAGE = "index.html"


def write_page(run_folder: str | Path) -> Path:
    """Write index.html into a graded run folder and return its path.

    Raises BadInput when the folder is not that of a graded run, MissingExtra without matplotlib.
    """
    folder = Path(run_folder)
    record, metrics = read_config(folder), read_metrics(folder)
    labels = {p.key: p.label for p in metrics.points}
    held = pack(
        read_questions(folder), labels, read_generations(folder), read_grades(folder), samples=metrics.samples,
        kind=record.config.kind, profile=metrics.grading.split(",")[0],
    )  # fmt: skip
    blocks = (f'<script type="text/plain" id="block-{i}">{b}</script>' for i, b in enumerate(held.blocks))
    heading = escape(title_of(metrics))
    name = escape(name_of(metrics))
    content = rendered(
        "page.html",
        ("sort.js", "page.js"),
        title=f"{heading} · {name}" if name else heading,
        heading=heading,
        caption=f"{name} · {escape(caption_of(metrics))}" if name else escape(caption_of(metrics)),
        warning=_warning(metrics),
        made=_made(record, read_commands(folder)),
        headline=_headline(metrics),
        table=_points(metrics),
        curve=page_figure(metrics),
        flips=_flips(metrics),
        advice=_advice(metrics),
        about=_about(record, metrics),
        metrics=json_text(metrics),
        index=held.overview,
        blocks="\n".join(blocks),
    )
    write_bytes(folder / PAGE, content)
    return folder / PAGE


def _warning(metrics: Metrics) -> str:
    text = incomplete_text(metrics)
    return f'<p class="warning" role="alert">{escape(text)}</p>' if text else ""


def _headline(metrics: Metrics) -> str:
    """Control, Scaling in both units and Performance as definition pairs."""

    def slope(found: Slope | None) -> str:
        if found is None:
            return "none"
        digits = 1 if abs(found.value) < 100 else 0
        return f"{found.value:.{digits}f} <small>[{found.low:.{digits}f}, {found.high:.{digits}f}]</small>"

    found = [
        *(
            (f"Control, {escape(c.method)}", number(c.per_run, 0, " %"), "runs with mean thinking within their budget")
            for c in metrics.control
        ),
        ("Scaling", slope(metrics.scaling_per_doubling), "points per doubling, mean over all pairs"),
        ("Scaling, robust", slope(metrics.robust_scaling_per_doubling), "points per doubling, median over all pairs"),
        ("Scaling, linear", slope(metrics.scaling_per_1k), "points per 1,000 tokens, mean over all pairs"),
        ("Performance", number(metrics.performance, 1, " %"), "highest accuracy"),
    ]  # fmt: skip
    return "".join(f"<div><dt>{a}</dt><dd>{b}</dd><dd class=what>{c}</dd></div>" for a, b, c in found)


def _points(metrics: Metrics) -> str:
    """One row for each policy; some columns need several rollouts or samples."""
    several, samples = has_rollouts(metrics), metrics.samples
    head = ["policy", "accuracy %", "95 % interval", "thinking tokens", *["of all rollouts"] * several,
            "answer tokens", "thinking cut %", "answer cut", "no answer"]  # fmt: skip
    errors = any(p.outcomes["error"] for p in metrics.points)
    head += ["error"] * errors
    if samples > 1:
        head += [f"pass@{samples} %", f"maj@{samples} %"]
    colours = {d.point.key: line.style.colour for line in series_of(dots_of(metrics)) for d in line.dots}
    rows = []
    for p in metrics.points:
        dot = f'<span aria-hidden="true" style="color:{colours[p.key]}">●</span> ' if p.key in colours else ""
        cells = [
            f'{dot}<a href="{escape(link(p))}">{escape(p.label)}</a>',
            number(p.accuracy),
            "none" if p.low is None else f"{p.low:.1f} – {p.high:.1f}",
            tokens(p.thinking_tokens),
            *[tokens(p.spent.thinking)] * several,
            number(p.answer_tokens),
            number(p.cut_share, 0),
            str(p.outcomes["cut"]),
            str(p.outcomes["no answer"]),
        ]
        cells += [str(p.outcomes["error"])] * errors
        if samples > 1:
            cells += [number((each or {}).get(str(samples))) for each in (p.pass_at_k, p.maj_at_k)]
        rows.append((f'<tr class="{escape(p.kind)}" data-policy="{escape(p.key)}">', cells))
    return table(head, rows)


def _flips(metrics: Metrics) -> str:
    """What each wait turned right and turned wrong."""
    if not metrics.flips:
        return ""
    head = ["from", "to", "wrong → right", "right → wrong", "difference", "95 % interval", "McNemar p"]
    rows = []
    for f in metrics.flips:
        labels = [escape(metrics.point(key).label) for key in (f.before, f.after)]
        counts = [str(f.wrong_to_right), str(f.right_to_wrong)]
        interval = f"{f.low:+.1f} – {f.high:+.1f}"
        p = "" if f.p is None else f"{f.p:.2g}"
        rows.append(("<tr>", [*labels, *counts, f"{f.difference:+.1f}", interval, p]))
    return (
        "<details class=card><summary>What each wait changed</summary><div class=scroll>"
        f"{table(head, rows)}</div></details>"
    )


def _advice(metrics: Metrics) -> str:
    """The cheapest policy that is not worse than the best, in words."""
    advice = metrics.advice
    if advice is None:
        return ""
    text = f"Best: {metrics.point(advice.best).label}."
    if advice.policy == advice.best:
        text += f" No cheaper policy is shown to be within {advice.margin:g} points of it."
    else:
        text += (
            f" Cheapest that is not worse by more than {advice.margin:g} points (95 % confidence): "
            f"{metrics.point(advice.policy).label}."
        )
    return f"<p class=advice>{escape(f'{text} {candidate_text(metrics)}'.strip())}</p>"


def _made(record: RunRecord, commands: Sequence[CommandRecord]) -> str:
    """What was run: model, questions, sampling, and every command with its time."""
    config, sampling = record.config, record.config.sampling
    drawn = (
        f"temperature {sampling.temperature:g}, seed {sampling.seed}" if sampling.temperature else "greedy"
    )
    version = f" ({config.benchmark_version})" if config.benchmark_version else ""
    versions = [f"{name} {version}" for name, version in record.versions[-1].items()]
    named = [
        ("model", config.model),
        ("questions", f"{record.questions.n:,} of {config.benchmark}{version}"),
        ("decoding", drawn),
        ("version", next((v for v in versions if v.startswith("s1 ")), "s1, a checkout")),
        *[("run", _when(each)) for each in commands],
    ]
    lines = "".join(f"<pre><code>{escape(visible(each.command))}</code></pre>" for each in commands)
    return pairs(named, "made") + lines


def _when(command: CommandRecord) -> str:
    """When a command began, and how long it took."""
    began = command.began.replace("T", " ").replace("Z", " UTC")
    if command.seconds is None:
        return f"{began}, stopped before its end"
    minutes, seconds = divmod(command.seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    took = f"{hours} h " * (hours > 0) + f"{minutes} min " * (hours + minutes > 0)
    return f"{began}, for {took}{seconds:.0f} s, {command.generations:,} answers"


def _about(record: RunRecord, metrics: Metrics) -> str:
    """The small print: questions, grading, versions."""
    parts = [
        f"questions: {metrics.complete:,} of {metrics.questions:,} finished by every policy",
        f"SHA-256 of the questions {metrics.questions_sha256[:12]}",
        f"grading {metrics.grading}",
        *([f"model {record.config.model_id}"] if record.config.model_id else []),
        ", ".join(f"{name} {version}" for name, version in record.versions[-1].items()),
    ]
    return escape(" · ".join(parts))
