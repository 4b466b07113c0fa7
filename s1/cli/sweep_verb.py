"""Run a grid of budgets and waits on a benchmark; policies reuse the tokens that they share.

Writes a run folder with its figure and page.
"""

from __future__ import annotations

import argparse

from s1.cli.evaluation import add_benchmark, add_methods, add_output, evaluate_plan, write_report
from s1.cli.options import add_max_answer, add_wait
from s1.errors import require
from s1.evals.run import policies_of
from s1.policy import BudgetPolicy

NEUTRAL = "Next"
"""Goes on with the thinking without a word of doubt."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_benchmark(parser)
    group = parser.add_argument_group("thinking budgets (tokens); the natural end is always included")
    group.add_argument(
        "--budgets", type=numbers, default=(), metavar="N,N,...", help="end the thinking after N tokens"
    )
    group.add_argument(
        "--waits", type=numbers, default=(1, 2, 4), metavar="N,N,...",
        help="suppress the end of thinking N times (default: 1,2,4)",
    )  # fmt: skip
    add_wait(group, "; may be given several times, to compare alternatives")
    group.add_argument(
        "--controls", action="store_true",
        help="run each number of waits also with nothing appended, and with a neutral continuation "
        f"({NEUTRAL!r}): what a gain by Wait has to beat",
    )  # fmt: skip
    add_max_answer(group)
    add_methods(parser)
    add_output(parser)


def numbers(text: str) -> tuple[int, ...]:
    """ "16,32" as (16, 32)."""
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 16,32,64") from None


def run(arguments: argparse.Namespace) -> int:
    require("report")
    base = BudgetPolicy(max_answer=arguments.max_answer)
    strings = arguments.wait + [base.wait, ("",), (NEUTRAL,)][len(arguments.wait) > 0 :] * arguments.controls
    grid = policies_of(arguments.budgets, arguments.waits, base=base, strings=strings)
    write_report(evaluate_plan(arguments, grid, base))
    return 0
