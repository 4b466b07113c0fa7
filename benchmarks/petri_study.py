"""What the petri world shows: every set and seed, trained and measured; `docs/petri.md` holds the result.

    python benchmarks/petri_study.py --out runs/petri-study --split test --questions 500

No bound is claimed beforehand: accuracies come with 95 % intervals, comparisons are paired on the same
questions. Sets are matched on examples (4 epochs of 1,000) and, where marked, on tokens (as many as the
curated set's 4 epochs). Runs that are in the folder already are not repeated. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from s1 import runs
from s1.cli.options import silence_libraries
from s1.cli.progress import ProgressBar
from s1.data.attempts import attempt
from s1.data.curate_settings import PETRI_CLEAN, CurateSettings
from s1.data.pipeline import curate
from s1.data.read_traces import as_traces
from s1.engines import load_engine
from s1.evals.intervals import flips, paired_difference
from s1.evals.metrics import Metrics
from s1.evals.run import Plan, evaluate, policies_of
from s1.formats import FORMATS
from s1.petri import world
from s1.petri.training import stored_pool
from s1.policy import BudgetPolicy
from s1.report.text import metrics_text
from s1.train.sft import train
from s1.types import Generation, Question, Sampling, to_json

POLICIES = policies_of((0, 16, 32, 64, 128), (1, 2, 4), base=BudgetPolicy(max_answer=12))
EVERY_SEED = ("curated", "random")
SETS = {
    "curated": ("s1k", False),
    "random": ("random", False),
    "longest": ("longest", False),
    "diverse": ("diverse", False),
    "random, tokens matched": ("random", True),
    "diverse, tokens matched": ("diverse", True),
    "longest, tokens matched": ("longest", True),
    "full pool, tokens matched": ("full", True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=Path("runs/petri-study"))
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--exam-seed", type=int, default=world.TEST_SEED)
    parser.add_argument(
        "--votes", type=int, default=8, help="samples per question for majority vote; 0 for none"
    )
    arguments = parser.parse_args()
    silence_libraries()
    out: Path = arguments.out
    benchmark = world.benchmark(arguments.questions, arguments.split, arguments.exam_seed)
    with ProgressBar("attempts of the base model") as bar:
        pool = stored_pool(out / "pool", 10_000, 0, bar.update)
    report: dict[str, Any] = {"split": arguments.split, "questions": arguments.questions, "sets": {}}
    report["base"] = _base(benchmark, out / f"base-{arguments.split}")
    budget_tokens = 0.0
    for name in arguments.sets:
        strategy, matched = SETS[name]
        for seed in range(arguments.seeds if name in EVERY_SEED else 1):
            began = time.perf_counter()
            label = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            settings = CurateSettings(n=1000, seed=seed, strategy=strategy, clean=PETRI_CLEAN, ngram=0)
            rows = curate(pool, settings).selected
            tokens = float(rows["trace_tokens"].sum())
            recipe = world.train_settings(seed)
            if name == "curated":
                budget_tokens = max(budget_tokens, recipe.epochs * tokens)
            if matched:
                per_step = recipe.batch * tokens / rows.height
                recipe = replace(recipe, max_steps=round((budget_tokens or 400_000) / per_step))
            with ProgressBar(label) as bar:
                model = train(str(world.base_model()), as_traces(rows), out / "models" / label, FORMATS["petri"],
                              recipe, progress=bar.show_training)  # fmt: skip
            trained = time.perf_counter()
            folder = out / f"{label}-{arguments.split}"
            metrics = _evaluate(benchmark, model, folder, label)
            print(f"\n{label}: {rows.height} rows, {tokens / 1000:.0f}K trace tokens, trained {trained - began:.0f} s, "
                  f"measured {time.perf_counter() - trained:.0f} s\n{metrics_text(metrics)}\n", flush=True)  # fmt: skip
            report["sets"][label] = {"trace_tokens": tokens, **_summary(folder, metrics)}
    if arguments.votes and "curated" in arguments.sets:
        report["votes"] = _votes(benchmark, out / "models" / "curated-0", out / f"votes-{arguments.split}",
                                 arguments.votes)  # fmt: skip
    report["curated against"] = _against(out, arguments)
    (out / f"report-{arguments.split}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report))


def _watched(benchmark: Any, engine: Any, plan: Plan, folder: Path, label: str) -> Metrics:
    with ProgressBar(label) as bar:
        return evaluate(benchmark, engine, FORMATS["petri"], plan, folder, model=label, progress=bar.show_run)


def _engine(model: Path) -> Any:
    return load_engine(str(model), max_batch=256)


def _base(benchmark: Any, folder: Path) -> dict[str, Any]:
    """The base answering directly, and forced to think."""
    engine = _engine(world.base_model())
    try:
        verdicts = attempt(engine, list(benchmark.questions), kind="exact", max_tokens=12)
        plan = Plan((BudgetPolicy(max_thinking=256, max_answer=12),))
        metrics = _watched(benchmark, engine, plan, folder, "base")
    finally:
        asyncio.run(engine.close())
    return {"direct": 100 * sum(map(bool, verdicts)) / len(verdicts), "thinking": to_json(metrics.points)}


def _evaluate(benchmark: Any, model: Path, folder: Path, label: str) -> Metrics:
    engine = _engine(model)
    try:
        return _watched(benchmark, engine, Plan(POLICIES), folder, label)
    finally:
        asyncio.run(engine.close())


def _right(folder: Path, label: str) -> dict[str, bool]:
    keys = {p.key for p in runs.read_config(folder).config.policies if p.label == label}
    grades = runs.read_grades(folder).items()
    return {k.question_id: g.outcome == "right" for k, g in grades if k.policy in keys}


def _summary(folder: Path, metrics: Metrics) -> dict[str, Any]:
    """Points, flips at each wait, accuracy per family, and the split by how the natural trace ended."""
    questions = {q.id: q for q in runs.read_questions(folder)}
    keys = {p.label: p.key for p in metrics.points}
    natural = {g.question_id: g for g in runs.read_generations(folder) if g.policy == keys["natural"]}
    labels = list(keys)
    right = {label: _right(folder, label) for label in labels}
    before = right["natural"]
    stored = to_json(metrics)
    summary: dict[str, Any] = {
        k: stored[k] for k in ("control", "scaling_per_doubling", "performance", "points")
    }
    summary["waits"] = {}
    for label in (x for x in labels if x.startswith("wait")):
        pair = _pair(before, right[label])
        flipped, difference = flips(*pair), paired_difference(*pair)
        summary["waits"][label] = {"difference": difference._asdict(), "flips": flipped._asdict()}
    groups = {q.id: str(q.meta["family"]) for q in questions.values()}
    summary["families"] = _by_group(groups, right, labels)
    ended = {i: "gave up" if _gave_up(g) else "committed" for i, g in natural.items()}
    summary["ended"] = _by_group(ended, right, labels)
    return summary


def _pair(before: dict[str, bool], after: dict[str, bool]) -> tuple[list[bool], list[bool]]:
    """The same questions in the same order."""
    return list(before.values()), [after[question] for question in before]


def _gave_up(generation: Generation) -> bool:
    words = generation.text_of("thinking").split()
    stated = [w for w in words if w in ("so", "maybe")]
    return bool(stated) and stated[-1] == "maybe"


def _by_group(
    group_of: dict[str, str], right: dict[str, dict[str, bool]], labels: list[str]
) -> dict[str, dict[str, float]]:
    table: dict[str, dict[str, float]] = {}
    for group in sorted(set(group_of.values())):
        ids = [i for i, g in group_of.items() if g == group]
        table[group] = {"n": len(ids)}
        table[group] |= {x: round(100 * statistics.mean(right[x][i] for i in ids), 1) for x in labels}
    return table


def _against(out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Curated minus each other set at the natural end and after waits, paired, seed 0 (and each seed for random)."""
    found: dict[str, Any] = {}
    for name in arguments.sets:
        for seed in range(arguments.seeds if name in EVERY_SEED else 1):
            if name == "curated" or "curated" not in arguments.sets:
                continue
            label = f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
            ours, theirs = out / f"curated-{seed}-{arguments.split}", out / f"{label}-{arguments.split}"
            found[label] = {
                policy: paired_difference(*_pair(_right(theirs, policy), _right(ours, policy)))._asdict()
                for policy in ("natural", "wait 1", "wait 2", "wait 4")
            }
    return found


def _votes(benchmark: Any, model: Path, folder: Path, samples: int) -> dict[str, Any]:
    """Majority vote over sampled natural traces: accuracy against all the thinking tokens that were spent."""
    from s1.evals.at_k import maj_at_k

    engine = _engine(model)
    policy = BudgetPolicy(max_answer=12)
    plan = Plan((policy,), samples=samples, sampling=Sampling(temperature=0.8, seed=1))
    try:
        _watched(benchmark, engine, plan, folder, "votes")
    finally:
        asyncio.run(engine.close())
    grades = runs.read_grades(folder)
    questions: list[Question] = runs.read_questions(folder)
    generations = runs.read_generations(folder)
    tokens = statistics.mean(g.thinking_tokens for g in generations)
    result = {}
    k = 1
    while k <= samples:
        accuracies = []
        for question in questions:
            mine = [grades[runs.Key(question.id, s, policy.key)] for s in range(samples)]
            accuracies.append(maj_at_k([g.extracted for g in mine], [g.outcome == "right" for g in mine], k))
        result[f"maj@{k}"] = {"accuracy": 100 * statistics.mean(accuracies), "thinking_tokens": k * tokens}
        k *= 2
    return result


if __name__ == "__main__":
    sys.exit(main())
