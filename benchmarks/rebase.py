"""REBASE against votes of the same number of rollouts on petri; `docs/guides/rebase.md` holds the result.

    python -m scripts.petri.train_reward --out runs/prm
    python benchmarks/rebase.py --reward runs/prm --out runs/rebase --split dev --questions 150

Accuracies come with 95 % intervals; comparisons are paired on the same questions. A killed run resumes;
`--only-report` reports what is complete so far. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from s1.cli.options import silence_libraries
from s1.cli.progress import ProgressBar
from s1.engines import load_engine
from s1.evals.compare_runs import right_shares
from s1.evals.intervals import paired_difference
from s1.evals.run import Plan, evaluate, grade_run
from s1.formats import FORMATS
from s1.methods import Method, load_method, load_reward
from s1.petri import world
from s1.policy import BudgetPolicy
from s1.types import Sampling, to_json

PLAIN = BudgetPolicy(max_answer=12)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="petri", help="folder of a fine-tuned petri model")
    parser.add_argument("--reward", type=Path, help="folder of its reward model")
    parser.add_argument("--out", type=Path, default=Path("runs/rebase"))
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--concurrency", type=int, default=8, help="questions side by side")
    parser.add_argument("--only-report", action="store_true")
    given = parser.parse_args()
    silence_libraries()
    if not given.only_report:
        run(given)
    report(given.out, given.widths)


def run(given: argparse.Namespace) -> None:
    methods = tuple(method_of(name, n) for name in ("majority", "weighted", "rebase") for n in given.widths)
    plan = Plan((PLAIN,), sampling=Sampling(given.temperature, seed=0), methods=methods)
    questions, reward = world.benchmark(given.questions, given.split), load_reward(f"petri:{given.reward}")
    engine = load_engine(given.model, max_batch=128)
    try:
        with ProgressBar(f"petri {given.split}") as bar:
            evaluate(
                questions, engine, FORMATS["petri"], plan, given.out, model="petri", reward=reward,
                concurrency=given.concurrency, progress=bar.show_run,
            )  # fmt: skip
    finally:
        asyncio.run(engine.close())


def method_of(name: str, n: int) -> Method:
    field = "width" if name == "rebase" else "n"
    return load_method(f"{name}:{field}={n}", policy=PLAIN)


def report(out: Path, widths: list[int]) -> None:
    metrics = grade_run(out)
    print(f"{metrics.complete} of {metrics.questions} questions")
    print(f"{'method':<24} accuracy (95 %)       thinking  answer  reward model")
    for point in metrics.points:
        held = f"{point.accuracy:.1f} ({point.low:.1f} to {point.high:.1f})"
        costs = (point.spent.thinking, point.spent.answer, point.spent.reward)
        print(f"{point.label:<24} {held:<20} {costs[0]:>9.0f} {costs[1]:>7.0f} {costs[2]:>13.0f}")
    shares, differences = right_shares(out), []
    for n in widths:
        for other in ("majority", "weighted"):
            before, after = shares[method_of(other, n).key], shares[method_of("rebase", n).key]
            shared = sorted(before.keys() & after.keys())  # a bootstrap depends on the order
            found = paired_difference([before[q] for q in shared], [after[q] for q in shared])
            differences.append({"after": f"rebase {n}", "before": f"{other} of {n}", **found._asdict()})
            low, mean, high = (100 * x for x in (found.low, found.mean, found.high))
            print(f"rebase {n} minus {other} of {n}: {mean:+.1f} ({low:+.1f} to {high:+.1f})")
    print(json.dumps({"points": to_json(metrics.points), "differences": differences}))


if __name__ == "__main__":
    sys.exit(main())
