"""The table of a recipe as markdown, from its run folders: intervals and numbers of questions with everything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s1 import runs
from s1.errors import BadConfig
from s1.evals.intervals import Interval, paired_difference
from s1.evals.recipes import Recipe

Metrics = Mapping[str, Mapping[str, Any]]


def recipe_table(recipe: Recipe, found: Metrics, out: Path) -> list[str]:
    """Lines of markdown: the table of `recipe`, whose runs lie below `out` with the metrics `found`."""
    made = {
        "points": lambda: points_table(found),
        "metrics": lambda: metrics_table(found),
        "difference": lambda: difference_table(found, out, recipe.baseline),
        "parallel": lambda: parallel_table(found, out),
    }[recipe.table]()
    return made + _paper_table(recipe)


def points_table(found: Metrics) -> list[str]:
    """Accuracy and thinking tokens of every policy of every run."""
    rows = [
        [
            _name(run, p, found),
            _accuracy(p),
            _tokens(p["spent"]["thinking"]),
            _tokens(p["answer_tokens"]),
            str(p["n"]),
        ]
        for run, metrics in found.items()
        for p in metrics["points"]
    ]
    return table(["policy", "accuracy %", "thinking tokens", "answer tokens", "n"], rows)


def metrics_table(found: Metrics) -> list[str]:
    """Control, Scaling and Performance (section 3.2), a run a row."""
    rows = []
    for run, m in found.items():
        rows.append([
            run,
            _number(m["control"]),
            _number(m["control_per_sample"]),
            _ranged(m, "scaling_per_doubling"),
            _ranged(m, "robust_scaling_per_doubling"),
            _ranged(m, "scaling_per_1k"),
            _number(m["performance"]),
            str(m["complete"]),
        ])  # fmt: skip
    head = ["method", "Control %, per run", "per sample", "Scaling, points per doubling", "robust",
            "points per 1,000 tokens", "Performance %", "n"]  # fmt: skip
    return table(head, rows)


def difference_table(found: Metrics, out: Path, baseline: str) -> list[str]:
    """Every policy beside the baseline ("run / policy"), paired on the same questions."""
    rights: dict[tuple[str, str], dict[str, float]] = {}
    for run, metrics in found.items():
        shares = right_shares(out / run)
        rights |= {(run, p["policy"]): shares[p["key"]] for p in metrics["points"]}
    run, _, label = (part.strip() for part in baseline.partition("/"))
    if (run, label) not in rights:
        known = ", ".join(f"{a} / {b}" for a, b in rights)
        raise BadConfig(f"The baseline {baseline!r} is no row.", f"There are: {known}.")
    rows = []
    for name, metrics in found.items():
        for p in metrics["points"]:
            same = (name, p["policy"]) == (run, label)
            difference = paired_difference(rights[run, label], rights[name, p["policy"]])
            rows.append([_name(name, p, found), _accuracy(p), _tokens(p["spent"]["thinking"]),
                         "" if same else _signed(difference), str(p["n"])])  # fmt: skip
    return table(["row", "accuracy %", "thinking tokens", f"minus {run}, points", "n"], rows)


def parallel_table(found: Metrics, out: Path) -> list[str]:
    """Every row of the later runs beside the dearest policy of the first run that spends no more."""
    first, *others = found
    sequential = sorted(found[first]["points"], key=lambda p: p["spent"]["thinking"])
    base = right_shares(out / first)
    rows = []
    for run in others:
        theirs = right_shares(out / run)
        for p in found[run]["points"]:
            within = [s for s in sequential if s["spent"]["thinking"] <= p["spent"]["thinking"]]
            row = [f"{p['policy']}", _accuracy(p), _tokens(p["spent"]["thinking"])]
            if within:
                beside = max(within, key=lambda s: (s["accuracy"], -s["spent"]["thinking"]))
                difference = paired_difference(base[beside["key"]], theirs[p["key"]])
                row += [
                    beside["policy"],
                    _accuracy(beside),
                    _tokens(beside["spent"]["thinking"]),
                    _signed(difference),
                ]
            else:
                row += ["none spends so little", "", "", ""]
            rows.append([*row, str(p["n"])])
    head = ["parallel", "accuracy %", "thinking tokens", "best sequential that spends no more", "accuracy %",
            "thinking tokens", "parallel minus sequential, points", "n"]  # fmt: skip
    return [*points_table({first: found[first]}), "", *table(head, rows)]


def right_shares(folder: Path) -> dict[str, dict[str, float]]:
    """Policy -> question -> share of its samples that were right."""
    counts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for key, grade in runs.read_grades(folder).items():
        counts[key.policy][key.question_id].append(grade.outcome == "right")
    return {
        label: {question: sum(each) / len(each) for question, each in cell.items()}
        for label, cell in counts.items()
    }


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _paper_table(recipe: Recipe) -> list[str]:
    if not recipe.paper:
        return []
    head, *rows = ([("" if c is None else str(c)) for c in row] for row in recipe.paper)
    return ["", "The paper has:", "", *table(head, rows)]


def _name(run: str, point: Mapping[str, Any], found: Metrics) -> str:
    alone = len(found[run]["points"]) == 1
    if len(found) == 1:
        return str(point["policy"])
    return run if alone else f"{run}: {point['policy']}"


def _accuracy(point: Mapping[str, Any]) -> str:
    if point["accuracy"] is None:
        return "-"
    return f"{point['accuracy']:.1f} ({point['low']:.1f} to {point['high']:.1f})"


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _ranged(metrics: Mapping[str, Any], name: str) -> str:
    if metrics[name] is None:
        return "-"
    low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
    return f"{metrics[name]:.1f}" + ("" if low is None else f" ({low:.1f} to {high:.1f})")


def _signed(difference: Interval) -> str:
    mean, low, high = (100 * v for v in difference[:3])
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
