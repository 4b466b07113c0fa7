"""Grade a run folder again and write its figure (PNG, SVG) and page, or compare runs.

Several folders give one page that lists the runs and shows their curves on the same axes.

Needs no model; with --judge a model may call right what the grader could not match.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from s1.cli.evaluation import add_grading, write_report
from s1.cli.judges import add_judge, open_judge
from s1.errors import BadConfig, require
from s1.evals.compare_graders import agreement, compare_graders
from s1.evals.compare_runs import compare_runs
from s1.evals.metrics import read_metrics
from s1.evals.run import grade_run
from s1.grading.equivalence import require_for
from s1.grading.judge import Judge
from s1.jsonl import locked
from s1.report.curve import incomplete_text
from s1.report.runs_page import write_runs_page
from s1.report.text import comparison_text, graders_text, metrics_text
from s1.runs import read_config
from s1.terminal import visible
from s1.types import to_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", type=Path, nargs="+", metavar="folder", help="a run folder")
    parser.add_argument(
        "--out", type=Path, metavar="FILE",
        help="with several runs: the page (default: runs.html beside the first)",
    )  # fmt: skip
    add_grading(parser)
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
    parser.add_argument(
        "--compare-graders", action="store_true",
        help="list the answers on which the graders disagree (strict, official, the judge); writes nothing",
    )  # fmt: skip
    add_judge(parser)


def run(arguments: argparse.Namespace) -> int:
    arguments.folder = arguments.folders[0]
    if len(arguments.folders) > 1:
        return _overlay(arguments)
    if arguments.out:
        raise BadConfig("--out is for a page of several runs.", "Name more than one run folder.")
    modes = {"--against": arguments.against is not None, "--compare-graders": arguments.compare_graders}
    used = [name for name, given in modes.items() if given]
    if len(used) > 1 or (used and arguments.grading) or (arguments.against and arguments.judge):
        raise BadConfig(
            f"{used[0]} only reads the run as it is graded.",
            "Leave out the other options, or use them first.",
        )
    if arguments.policies and not arguments.against:
        raise BadConfig("--policies names what to compare.", "Add --against RUN.")
    if arguments.against is not None:
        return _compare_runs(arguments)
    if not arguments.compare_graders:
        require("report")
    require_for(read_config(arguments.folder).config.kind)  # all this before a judge writes into the folder
    with open_judge(arguments.judge, arguments.url, arguments.folder) as judge:
        if arguments.compare_graders:
            return _compare_graders(arguments, judge)
        with locked(arguments.folder):
            metrics = grade_run(
                arguments.folder, arguments.grading, judge=judge, judged_by=arguments.judge or ""
            )
            written = write_report(arguments.folder)
    if arguments.json:
        print(json.dumps(to_json(metrics)))
    else:
        first, *rest = [*metrics_text(metrics).splitlines(), *(f"Written: {path}" for path in written)]
        red = not metrics.finished and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        print(f"\x1b[31m{visible(first)}\x1b[0m" if red else visible(first))
        print(visible("\n".join(rest)))
    return 0


def _overlay(arguments: argparse.Namespace) -> int:
    one_run = ("grading", "json", "against", "policies", "compare_graders", "judge")
    if used := [name for name in one_run if getattr(arguments, name)]:
        option = used[0].replace("_", "-")
        raise BadConfig(f"--{option} is for one run folder.", "Name one, or leave the option out.")
    require("report")
    out = arguments.out or arguments.folder.resolve().parent / "runs.html"
    print(visible(f"Written: {write_runs_page(arguments.folders, out)}"))
    return 0


def _compare_runs(arguments: argparse.Namespace) -> int:
    named = (arguments.policies[0], arguments.policies[1]) if arguments.policies else None
    rows = compare_runs(arguments.folder, arguments.against, named)
    if arguments.json:
        print(json.dumps(to_json(rows)))
    else:
        for folder in (arguments.folder, arguments.against):
            if warning := incomplete_text(read_metrics(folder)):
                print(visible(f"{folder}: {warning}"))
        print(visible(comparison_text(rows, arguments.folder, arguments.against)))
    return 0


def _compare_graders(arguments: argparse.Namespace, judge: Judge | None) -> int:
    """The disagreements of the graders on one run, and how often each calls an answer right."""
    compared = compare_graders(arguments.folder, judge)
    counts = agreement(compared)
    if arguments.json:
        differing = [to_json(c) for c in compared if c.disagree]
        print(json.dumps({**counts, "disagreements": differing}))
    else:
        print(visible(graders_text(compared, counts)))
    return 0
