"""The table of a recipe as markdown, from its run folders; every accuracy with its interval and n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from s1.errors import BadConfig
from s1.evals.compare_runs import right_shares
from s1.evals.intervals import paired_difference
from s1.evals.metrics import Metrics, Point, Slope
from s1.evals.recipes import Recipe
from s1.terminal import file_name

ByRun = Mapping[str, Metrics]
FOLDS = 10


def recipe_table(recipe: Recipe, found: ByRun, out: Path) -> list[str]:
    """Lines of markdown: the table of `recipe`, whose run folders are below `out`, and the paper's values."""
    if recipe.table == "difference":
        lines = difference_table(found, out, recipe.baseline)
    elif recipe.table == "parallel":
        lines = parallel_table(found, out)
    else:
        lines = metrics_table(found) if recipe.table == "metrics" else points_table(found)
    if recipe.paper:
        head, *rows = ([("" if cell is None else str(cell)) for cell in row] for row in recipe.paper)
        lines += ["", "The paper has:", "", *markdown(head, rows)]
    return lines


def points_table(found: ByRun) -> list[str]:
    """Accuracy and thinking tokens of every policy of every run."""
    rows = [
        [_name(run, p, found), _accuracy(p), _tokens(p.spent.thinking), _tokens(p.answer_tokens), str(p.n)]
        for run, metrics in found.items()
        for p in metrics.points
    ]
    return markdown(["policy", "accuracy %", "thinking tokens", "answer tokens", "n"], rows)


def metrics_table(found: ByRun) -> list[str]:
    """Control, Scaling and Performance (section 3.2), one row for each run."""
    rows = [
        [run, _controls(m, "per_run"), _controls(m, "per_sample"), _slope(m.scaling_per_doubling),
         _slope(m.robust_scaling_per_doubling), _slope(m.scaling_per_1k), _number(m.performance), str(m.complete)]
        for run, m in found.items()
    ]  # fmt: skip
    head = ["method", "Control %, per run", "per sample", "Scaling, points per doubling", "robust",
            "points per 1,000 tokens", "Performance %", "n"]  # fmt: skip
    return markdown(head, rows)


def difference_table(found: ByRun, out: Path, baseline: str) -> list[str]:
    """Every policy minus the baseline ("run / policy"), paired on the same questions."""
    points = [(run, p) for run, metrics in found.items() for p in metrics.points]
    base, _, policy = (part.strip() for part in baseline.partition("/"))
    chosen = next((p for run, p in points if run == base and policy in (p.key, p.label)), None)
    if chosen is None:
        known = ", ".join(f"{run} / {p.label}" for run, p in points)
        raise BadConfig(f"The baseline {baseline!r} is not a row of the table.", f"Name one of: {known}.")
    shares = {run: right_shares(out / file_name(run)) for run in found}
    rows = []
    for run, p in points:
        change = "" if p is chosen else _difference(shares[base][chosen.key], shares[run][p.key])
        rows.append([_name(run, p, found), _accuracy(p), _tokens(p.spent.thinking), change, str(p.n)])
    return markdown(["row", "accuracy %", "thinking tokens", f"minus {base}, points", "n"], rows)


def parallel_table(found: ByRun, out: Path) -> list[str]:
    """Every policy of the later runs against the best policy of the first run that spends no more thinking.

    The best is named; in the difference it is chosen for each question on other questions.
    """
    first, *others = found
    base, rows = right_shares(out / file_name(first)), []
    for run in others:
        shares = right_shares(out / file_name(run))
        for p in found[run].points:
            cheaper = [s for s in found[first].points if s.cost <= p.cost]
            cells = ["none spends so little", "", "", ""]
            if cheaper:
                best = max(cheaper, key=lambda s: (s.accuracy or 0.0, -s.cost))
                change = _difference(chosen_elsewhere([base[s.key] for s in cheaper]), shares[p.key])
                cells = [best.label, _accuracy(best), _tokens(best.cost), change]
            rows.append([p.label, _accuracy(p), _tokens(p.cost), *cells, str(p.n)])
    head = ["parallel", "accuracy %", "thinking tokens", "best sequential that spends no more", "accuracy %",
            "thinking tokens", "parallel minus sequential, points", "n"]  # fmt: skip
    return [*points_table({first: found[first]}), "", *markdown(head, rows)]


def chosen_elsewhere(policies: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """By question, the score of the policy that is the best on nine tenths of the questions without this one.

    The best on the same questions would be partly lucky on them: several equal policies would look better than one.
    """
    found: dict[str, float] = {}
    order = sorted(set(policies[0]).intersection(*policies[1:]))
    for fold in range(FOLDS):
        others = [q for i, q in enumerate(order) if i % FOLDS != fold] or order
        best = max(policies, key=lambda scores: sum(scores[q] for q in others))
        found |= {q: best[q] for q in order[fold::FOLDS]}
    return found


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _name(run: str, point: Point, found: ByRun) -> str:
    if len(found) == 1:
        return point.label
    return run if len(found[run].points) == 1 else f"{run}: {point.label}"


def _accuracy(point: Point) -> str:
    if point.accuracy is None:
        return "-"
    return f"{point.accuracy:.1f} ({point.low:.1f} to {point.high:.1f})"


def _tokens(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _controls(metrics: Metrics, field: str) -> str:
    """Control of the run's method, or of each of its methods by name."""
    found = [(c.method, _number(getattr(c, field))) for c in metrics.control]
    return "; ".join(f"{name} {value}" if len(found) > 1 else value for name, value in found) or "-"


def _slope(slope: Slope | None) -> str:
    return "-" if slope is None else f"{slope.value:.1f} ({slope.low:.1f} to {slope.high:.1f})"


def _difference(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    mean, low, high = (
        100 * v for v in paired_difference(list(before.values()), [after[q] for q in before])[:3]
    )
    return f"{mean:+.1f} ({low:+.1f} to {high:+.1f})"
