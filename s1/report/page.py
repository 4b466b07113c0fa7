"""One HTML file that shows a run: table, curve, headline numbers and any trace, forced spans marked.

It needs no network and no server. What a model wrote is packed (see `traces`) and put in place as text,
never as markup; a content security policy admits the page's own script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from s1.jsonl import write_bytes
from s1.report.curve import curve, link
from s1.report.layout import caption, default_title, thinking_of
from s1.report.page_traces import LIMIT, pack
from s1.runs import (
    GRADES,
    read_config,
    read_generations,
    read_grades,
    read_metrics,
    read_questions,
)

PAGE = "index.html"


def write_page(run_folder: str | Path, *, title: str | None = None, limit: int = LIMIT) -> Path:
    """Write index.html into a run folder and return its path. Needs metrics.json.

    `limit` bounds the bytes of packed traces; above it the later questions are listed without their texts.
    Raises BadInput when the folder is no run or was not measured yet.
    """
    folder = Path(run_folder)
    config, metrics = read_config(folder), read_metrics(folder)
    labels = {p["key"]: p["policy"] for p in metrics["points"]}
    grades = read_grades(folder) if (folder / GRADES).exists() else {}
    generations = [g for g in read_generations(folder) if g.policy in labels]
    questions = read_questions(folder)
    held = pack(questions, labels, generations, grades, limit=limit)
    script, style = _asset("page.js"), _asset("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    name = title or default_title(metrics)
    text = Template(_asset("page.html")).substitute(
        csp=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'",
        title=escape(name),
        caption=escape(caption(metrics)),
        headline=_headline(metrics),
        table=_table(metrics["points"], int(metrics.get("samples", 1))),
        curve=curve(metrics),
        flips=_flips(metrics.get("flips") or []),
        advice=_advice(metrics),
        about=_about(config, metrics),
        metrics=_json(metrics),
        index=held.overview,
        blocks="\n".join(
            f'<script type="text/plain" id="block-{i}">{block}</script>'
            for i, block in enumerate(held.blocks)
        ),
        style=style,
        script=script,
    )
    write_bytes(folder / PAGE, text.encode())
    return folder / PAGE


def _headline(metrics: Mapping[str, Any]) -> str:
    """Control, Scaling in both units and Performance as definition pairs."""

    def ranged(name: str) -> str:
        if metrics.get(name) is None:
            return "none"
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
        digits = 1 if abs(metrics[name]) < 100 else 0
        span = f" <small>[{low:.{digits}f}, {high:.{digits}f}]</small>" if low is not None else ""
        return f"{metrics[name]:.{digits}f}{span}"

    pairs = [
        ("Control", _number(metrics["control"], "%", 0), "runs whose mean thinking is within their budget"),
        ("Scaling", ranged("scaling_per_doubling"), "points per doubling, mean over all pairs"),
        (
            "Scaling, robust",
            ranged("robust_scaling_per_doubling"),
            "points per doubling, median over all pairs",
        ),
        ("Scaling, linear", ranged("scaling_per_1k"), "points per 1,000 tokens, mean over all pairs"),
        ("Performance", _number(metrics["performance"], "%", 1), "highest accuracy"),
    ]
    return "".join(f"<div><dt>{a}</dt><dd>{b}</dd><dd class=what>{c}</dd></div>" for a, b, c in pairs)


def _table(points: Sequence[Mapping[str, Any]], samples: int) -> str:
    """One row a policy; the last columns need several samples."""
    several = any(((p.get("spent") or {}).get("rollouts") or 1) > 1 for p in points)
    head = [
        "policy",
        "accuracy %",
        "95 % interval",
        "thinking tokens",
        *(["of all rollouts"] if several else []),
        "answer tokens",
        "cut %",
        "unanswered",
    ]
    if samples > 1:
        head += [f"pass@{samples} %", f"maj@{samples} %"]
    rows = []
    for p in points:
        outcomes = p["outcomes"]
        span = f"{p['low']:.1f} – {p['high']:.1f}" if p["low"] is not None else "none"
        cells = [
            f'<a href="{escape(link(p["policy"]))}">{escape(p["policy"])}</a>',
            _number(p["accuracy"], "", 1),
            span,
            *(_tokens(value) for value in (p["thinking_tokens"], *([thinking_of(p)] if several else []))),
            _number(p["answer_tokens"], "", 1),
            _number(p["cut_share"], "", 0),
            f"{outcomes['cut'] + outcomes['no answer'] + outcomes['error']}",
        ]
        if samples > 1:
            cells += [_number(p.get(k, {}).get(str(samples)), "", 1) for k in ("pass_at_k", "maj_at_k")]
        body = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr class="{escape(p["kind"])}" data-policy="{escape(p["policy"])}">{body}</tr>')
    top = "".join(f"<th scope=col>{name}</th>" for name in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _flips(flips: Sequence[Mapping[str, Any]]) -> str:
    """What each wait turned right and turned wrong."""
    if not flips:
        return ""
    head = ["from", "to", "wrong → right", "right → wrong", "difference", "95 % interval", "McNemar p"]
    rows = []
    for f in flips:
        cells = [
            escape(f["before"]),
            escape(f["after"]),
            f"{f['wrong_to_right']}",
            f"{f['right_to_wrong']}",
            f"{f['difference']:+.1f}",
            f"{f['low']:+.1f} – {f['high']:+.1f}",
            "" if f["p"] is None else f"{f['p']:.2g}",
        ]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    top = "".join(f"<th scope=col>{name}</th>" for name in head)
    return (
        "<details class=card><summary>What each wait changed</summary><div class=scroll>"
        f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _advice(metrics: Mapping[str, Any]) -> str:
    """The cheapest policy that is not worse than the best, in words."""
    advice = metrics.get("advice")
    if not advice:
        return ""
    text = f"Best: {advice['best']}."
    if advice["policy"] != advice["best"]:
        text += (
            f" Cheapest that is not worse by more than {advice['margin']:g} points "
            f"(95 % confidence): {advice['policy']}."
        )
    else:
        text += f" No cheaper policy is shown to be within {advice['margin']:g} points of it."
    if advice.get("candidate"):
        needed = f"{advice['questions_needed']:,}"
        text += f" {advice['candidate']} may be, but it takes about {needed} questions to tell."
    return f"<p class=advice>{escape(text)}</p>"


def _about(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The small print: questions, grading, versions."""
    told = [
        f"questions: {metrics['complete']:,} of {metrics['questions']:,} finished by every policy",
        f"SHA-256 of the questions {config['questions'].get('sha256', '')[:12]}",
        f"grading {metrics.get('grading') or 'not named'}",
        ", ".join(f"{name} {version}" for name, version in config["versions"][-1].items()),
    ]
    return escape(" · ".join(told))


def _number(value: float | None, unit: str, digits: int) -> str:
    return "none" if value is None else f"{value:,.{digits}f}{' ' if unit else ''}{unit}"


def _tokens(value: float | None) -> str:
    return _number(value, "", 0 if (value or 0) >= 1000 else 1)


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _asset(name: str) -> str:
    return files("s1.report").joinpath("assets", name).read_text(encoding="utf-8")
