"""What `s1 eval` and `s1 sweep` share: running policies and methods on a benchmark, and printing the result."""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

from s1.cli.options import add_model, add_sampling, open_engine, sampling
from s1.cli.progress import ProgressBar
from s1.evals.benchmarks import load_benchmark
from s1.evals.metrics import read_metrics
from s1.evals.run import Plan, check_before, evaluate
from s1.formats import choose_format
from s1.jsonl import locked
from s1.methods import load_method, load_reward
from s1.policy import BudgetPolicy
from s1.report.figures import scaling_figure
from s1.report.page import write_page
from s1.report.text import metrics_text
from s1.terminal import file_name, visible
from s1.types import Sampling, to_json

if TYPE_CHECKING:
    from argparse import _ActionsContainer as Options


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    """What to run on: --benchmark, --limit, --model, --format."""
    group = parser.add_argument_group("questions")
    group.add_argument(
        "--benchmark", required=True, metavar="NAME",
        help="petri, aime24, math500, ..., a YAML description, or a JSONL, JSON, Parquet or CSV file",
    )  # fmt: skip
    add_limit(group)
    add_model(parser)


def add_limit(options: Options) -> None:
    options.add_argument("--limit", type=int, metavar="N", help="only the first N questions")


def add_methods(parser: argparse.ArgumentParser) -> None:
    """How to sample and vote: --temperature, --seed, --samples, --method, --reward."""
    group = add_sampling(parser)
    group.add_argument(
        "--samples", type=int, default=1, metavar="K", help="samples per question (default: 1)"
    )
    group = parser.add_argument_group("other ways to scale")
    group.add_argument(
        "--method", action="append", default=[], metavar="NAME[:FIELD=VALUE,...]",
        help="such as majority:n=8; may be given several times (docs/guides/methods.md)",
    )  # fmt: skip
    add_reward(group)


def add_reward(options: Options) -> None:
    options.add_argument(
        "--reward", metavar="NAME:REST", help="reward model, such as petri:FOLDER, for methods that need one"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """--out and --json."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--out", type=Path, metavar="DIR", help="run folder (default: a folder in runs/ named after the run)"
    )
    group.add_argument("--json", action="store_true", help="print metrics.json instead of the table")
    add_grading(group, default="strict")


def add_grading(options: Options, default: str | None = None) -> None:
    options.add_argument(
        "--grading", choices=("strict", "official"), default=default,
        help="how answers are extracted: by s1's rules (the default), or as the authors' code does",
    )  # fmt: skip


def evaluate_plan(
    arguments: argparse.Namespace, policies: tuple[BudgetPolicy, ...], base: BudgetPolicy
) -> Path:
    """Evaluate the policies and the methods of --method, print the metrics, return the run folder.

    `base` is the policy of the rollouts within a method.
    """
    benchmark = load_benchmark(arguments.benchmark, arguments.limit)
    plan = Plan(
        policies,
        samples=arguments.samples,
        sampling=sampling(arguments, default_seed=0),
        grading=arguments.grading,
        methods=tuple(load_method(spec, policy=base) for spec in arguments.method),
    )
    reward = load_reward(arguments.reward) if arguments.reward else None
    out: Path = arguments.out or Path("runs") / _folder_name(
        benchmark.name, arguments.model, arguments.verb, plan, arguments.limit
    )
    check_before(benchmark, plan, out, reward)
    engine = open_engine(arguments.model, arguments.format)
    try:
        with locked(out), ProgressBar(benchmark.name) as bar:
            metrics = evaluate(
                benchmark, engine, choose_format(engine, arguments.format), plan, out,
                model=arguments.model, reward=reward, progress=bar.show_run,
            )  # fmt: skip
    finally:
        asyncio.run(engine.close())
    if arguments.json:
        print(json.dumps(to_json(metrics)))
    else:
        print(visible(f"{metrics_text(metrics)}\nWritten to {out}"))
    return out


def write_report(folder: Path) -> list[Path]:
    """Write the figure and the page of a graded run folder; returns the files."""
    with locked(folder):
        return [*scaling_figure(read_metrics(folder), folder), write_page(folder)]


def _folder_name(benchmark: str, model: str, verb: str, plan: Plan, limit: int | None = None) -> str:
    """A name that differs when the run differs, so that no two runs share a folder."""
    parts = [benchmark, model.removeprefix("runs/"), verb]
    if limit is not None:
        parts.append(f"first {limit}")
    parts += [method.key for method in plan.in_tables()]
    if plan.grading != "strict":
        parts.append(plan.grading)
    if drawn := plan.sampling.temperature:
        parts.append(f"{plan.samples} at {drawn:g} seed {plan.sampling.seed}")
        if plan.sampling != Sampling(drawn, seed=plan.sampling.seed):
            parts.append(f"top {plan.sampling.top_p:g} {plan.sampling.top_k}")
    return file_name("-".join(filter(None, parts)))
