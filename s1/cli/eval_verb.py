"""One policy on a benchmark: accuracy with its interval, and a run folder."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.cli.common import (
    Line,
    add_model,
    default_model,
    limit,
    open_benchmark,
    open_engine,
    run_progress,
    wait_string,
)

if TYPE_CHECKING:
    from s1.policy import BudgetPolicy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument(
        "--max-thinking", type=limit, metavar="N",
        help="thinking ends after N tokens; auto (the default): what the context leaves",
    )  # fmt: skip
    parser.add_argument(
        "--min-thinking", type=int, default=0, metavar="N", help="an earlier end is suppressed"
    )
    parser.add_argument(
        "--waits", type=int, default=0, metavar="N", help="suppress the end of thinking N times"
    )
    parser.add_argument(
        "--wait", type=wait_string, default=("Wait",), metavar="TEXT",
        help='what is appended then; "Wait,Hmm" takes turns, "" adds no text (default: Wait)',
    )  # fmt: skip


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What eval and sweep have in common."""
    parser.add_argument(
        "--benchmark", help="petri, a known name, a YAML description, or a JSONL/JSON/Parquet/CSV file"
    )
    add_model(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument("--max-answer", type=int, metavar="N", help="limit of each answer, tokens")
    parser.add_argument("--out", type=Path, help="run folder (default: named after all of this, below runs/)")
    parser.add_argument(
        "--json", action="store_true", help="print metrics.json to stdout instead of the table"
    )
    parser.add_argument("--samples", type=int, default=1, metavar="K", help="samples per question")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy")
    parser.add_argument("--seed", type=int, help="for samples (default: 0)")
    parser.add_argument(
        "--method", action="append", default=[], metavar="NAME[:FIELD=VALUE,...]",
        help="another way to scale, such as majority:n=8; may be given several times (docs/guides/methods.md)",
    )  # fmt: skip
    parser.add_argument("--reward", metavar="MODEL", help="reward model of the methods that need one")


def run(arguments: argparse.Namespace) -> int:
    from s1.policy import BudgetPolicy

    policy = BudgetPolicy(
        max_thinking=arguments.max_thinking,
        min_thinking=arguments.min_thinking,
        waits=arguments.waits,
        wait=arguments.wait,
        max_answer=arguments.max_answer,
    )
    run_policies(arguments, "eval", () if arguments.method else (policy,), policy)
    return 0


def run_policies(
    arguments: argparse.Namespace, verb: str, policies: tuple[Any, ...], base: BudgetPolicy
) -> Path:
    """Evaluate and print; returns the run folder. Used by eval and sweep.

    `base` is the policy of the rollouts within other methods.
    """
    import asyncio

    from s1.errors import BadConfig
    from s1.evals.run import Plan, evaluate
    from s1.formats import choose_format
    from s1.methods import load_method, load_reward
    from s1.report.text import metrics_text
    from s1.types import Sampling, to_json

    if arguments.benchmark is None:
        raise BadConfig(
            f"s1 {verb} needs questions.", "Name them: --benchmark petri, aime24, math500, or a file."
        )
    model = default_model(arguments.model)
    benchmark = open_benchmark(arguments.benchmark, arguments.limit)
    if arguments.seed is not None and not arguments.temperature:
        raise BadConfig("A seed changes nothing at temperature 0.", "Set --temperature, or leave --seed out.")
    sampling = Sampling(
        temperature=arguments.temperature, seed=(arguments.seed or 0) if arguments.temperature else None
    )
    methods = tuple(load_method(spec, policy=base) for spec in arguments.method)
    reward = load_reward(arguments.reward) if arguments.reward else None
    plan = Plan(policies, samples=arguments.samples, sampling=sampling, methods=methods)
    out: Path = arguments.out or Path("runs") / _folder_name(benchmark.name, model, verb, plan)
    engine = open_engine(model)
    try:
        fmt = choose_format(engine, arguments.format)
        metrics = evaluate(
            benchmark, engine, fmt, plan, out, model=model, reward=reward,
            progress=run_progress(Line(), benchmark.name),
        )  # fmt: skip
    finally:
        asyncio.run(engine.close())
    print(json.dumps(to_json(metrics)) if arguments.json else f"{metrics_text(metrics)}\nWritten to {out}")
    return out


def _folder_name(benchmark: str, model: str, verb: str, plan: Any) -> str:
    """A name that differs where the run does, so that two runs do not meet in one folder."""
    parts = [benchmark, model.removeprefix("runs/"), verb]
    if verb == "eval":
        parts += [p.label for p in (*plan.policies, *plan.methods)]
    if plan.sampling.temperature:
        parts.append(f"{plan.samples} at {plan.sampling.temperature:g}")
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-")
