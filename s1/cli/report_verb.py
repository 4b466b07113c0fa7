"""Grade a run folder again and write its figure (PNG, SVG) and page, or compare it with another run.

Needs no model; with --judge a model may call right what the grader could not match.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from s1.cli.common import columns, table
from s1.cli.evaluation import write_report
from s1.cli.judges import add_judge, open_judge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="a run folder")
    parser.add_argument("--grading", choices=("strict", "official"), help="how answers are extracted")
    parser.add_argument(
        "--json", action="store_true", help="print metrics.json to stdout instead of the table"
    )
    parser.add_argument(
        "--against", type=Path, metavar="RUN",
        help="compare with this run on the same questions, paired; writes nothing",
    )  # fmt: skip
    parser.add_argument(
        "--policies", nargs=2, metavar="LABEL",
        help="with --against: a policy of each run, where they share none",
    )  # fmt: skip
    add_judge(parser)


def run(arguments: argparse.Namespace) -> int:
    import json

    from s1.errors import BadConfig
    from s1.evals.run import grade_run

    if arguments.against is not None:
        if arguments.judge or arguments.grading:
            raise BadConfig(
                "--against compares runs as they were graded.", "Grade each first, without --against."
            )
        return _compare(arguments)
    if arguments.policies:
        raise BadConfig("--policies names what to compare.", "Add --against RUN.")
    with open_judge(arguments.judge, arguments.url, arguments.folder) as judge:
        metrics = grade_run(arguments.folder, arguments.grading, judge=judge, judged_by=arguments.judge or "")
    written = write_report(arguments.folder)
    print(
        json.dumps(metrics)
        if arguments.json
        else table(metrics) + "\n" + "\n".join(f"Written: {w}" for w in written)
    )
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    import json

    from s1.evals.compare_runs import compare_runs

    named = (arguments.policies[0], arguments.policies[1]) if arguments.policies else None
    rows = compare_runs(arguments.folder, arguments.against, named)
    print(json.dumps(rows) if arguments.json else _comparison(rows, arguments.folder, arguments.against))
    return 0


def _comparison(rows: list[dict[str, Any]], one: Path, other: Path) -> str:
    head = (
        "policy",
        "this",
        "other",
        "difference",
        "95 % interval",
        "n",
        "only this right",
        "only other right",
        "p",
    )
    body = [
        (
            row["policy"] if row["policy"] == row["against"] else f"{row['policy']} | {row['against']}",
            f"{row['accuracy']:.1f} %",
            f"{row['accuracy_against']:.1f} %",
            f"{row['difference']:+.1f}",
            f"{row['low']:+.1f} to {row['high']:+.1f}",
            str(row["n"]),
            *("-" if row[k] is None else f"{row[k]:.2g}" if k == "p" else str(row[k])
              for k in ("only_this_right", "only_against_right", "p")),
        )
        for row in rows
    ]  # fmt: skip
    lines = [
        f"{one} (this) against {other} (other), points of accuracy, paired by question",
        *columns([head, *body]),
    ]
    return "\n".join([*lines, *(_verdict(row) for row in rows)])


def _verdict(row: Mapping[str, Any]) -> str:
    if row["low"] > 0 or row["high"] < 0:
        better = "this" if row["low"] > 0 else "the other"
        return f"{row['policy']}: {better} run is better (95 % confidence)."
    return (
        f"{row['policy']}: {row['n']:,} questions cannot tell; they would show a difference of "
        f"{row['smallest_difference']:.1f} points."
    )
