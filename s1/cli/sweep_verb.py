"""A grid of budgets and waits on a benchmark: every policy is a fork of one trunk per question.

Writes the run folder with its figure and page.
"""

from __future__ import annotations

import argparse

from s1.cli.common import wait_string
from s1.cli.eval_verb import add_run_arguments, run_policies


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("--budgets", type=numbers, default=(), metavar="N,N", help="thinking limits, tokens")
    parser.add_argument("--waits", type=numbers, default=(1, 2, 4), metavar="N,N", help="numbers of waits")
    parser.add_argument(
        "--wait", type=wait_string, action="append", default=[], metavar="TEXT",
        help='wait string; may be given several times. "Wait,Hmm" takes turns, "" adds no text (default: Wait)',
    )  # fmt: skip


def numbers(text: str) -> tuple[int, ...]:
    """ "16,32" as (16, 32)."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 16,32,64") from None


def run(arguments: argparse.Namespace) -> int:
    from s1.cli.report_verb import write_report
    from s1.evals.run import policies_of
    from s1.policy import BudgetPolicy

    base = BudgetPolicy(max_answer=arguments.max_answer)
    grid = policies_of(arguments.budgets, arguments.waits, base=base, strings=arguments.wait)
    write_report(run_policies(arguments, "sweep", grid, base))
    return 0
