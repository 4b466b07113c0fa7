"""Run one policy on a benchmark: accuracy with its interval, and a run folder.

With --method other ways to scale are run instead; the budget is then that of their rollouts.
"""

from __future__ import annotations

import argparse

from s1.cli.evaluation import add_benchmark, add_methods, add_output, evaluate_plan
from s1.cli.options import add_budget, budget_policy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_benchmark(parser)
    add_budget(parser)
    add_methods(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    policy = budget_policy(arguments)
    evaluate_plan(arguments, () if arguments.method else (policy,), policy)
    return 0
