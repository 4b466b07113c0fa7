"""The paper's experiment on SmolLM2-135M-Instruct, stage by stage; a finished part is not done again.

    python -m scripts.smollm2.study attempts --work WORK    the model's own answers: which questions it can do already
    python -m scripts.smollm2.study curate   --work WORK    1,000 rows: curated and random, three seeds each
    python -m scripts.smollm2.study train    --work WORK    an adapter for each dataset; with --full, a model
    python -m scripts.smollm2.study evaluate --work WORK    budgets and waits on the three test sets

WORK holds pool.jsonl and dev.jsonl of `pool.py` and a folder `sets` with the test sets. With --quick each stage takes
a few rows only, to see that everything runs. docs/smollm2.md has the result.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from s1.policy import BudgetPolicy
from s1.train.settings import TrainSettings

SETS = ("gsm8k_test", "svamp", "tasks_test")
CONTEXT = 768
"""Some thinking never ends: the natural end and the waits get what this context leaves, about 550 tokens."""

NEEDED = {
    "attempts": ("pool.jsonl", "scripts/smollm2/pool.py"),
    "curate": ("solved/pool.json", "the stage `attempts`"),
    "train": ("data/{}.jsonl", "the stage `curate`"),
    "evaluate": ("models/{}", "the stage `train`"),
}
"""What each stage reads of WORK, and what writes it. {} is one dataset or model, or all."""


class Sizes(NamedTuple):
    """How much of everything; None is all."""

    pool: int | None = None
    selected: int = 1000
    seeds: tuple[int, ...] = (0, 1, 2)
    questions: int | None = None
    steps: int = -1


QUICK = Sizes(pool=60, selected=20, seeds=(0,), questions=4, steps=2)
FULL = TrainSettings(epochs=5, learning_rate=1e-4, max_length=1024, answer_prefix="Final Answer: ")
LORA = replace(FULL, lora_rank=16, lora_alpha=32, learning_rate=1e-3)
POLICIES = (
    *(BudgetPolicy(max_thinking=n, max_answer=48) for n in (0, 16, 32, 64, 128, 256)),
    BudgetPolicy(max_answer=48),
    *(BudgetPolicy(waits=n, max_answer=48) for n in (1, 2)),
    BudgetPolicy(waits=1, wait=("",), max_answer=48),
    BudgetPolicy(waits=1, wait=("So",), max_answer=48),
)
"""The last two are controls: an end suppressed without a word, and a word that promises no doubt."""


def attempts(work: Path, batch: int, sizes: Sizes) -> None:
    """Greedy direct answers to the pool's and the test sets' questions, graded, into WORK/solved."""
    from s1.data.attempts import attempt
    from s1.engines import load_engine
    from s1.evals.benchmarks import load_benchmark

    (work / "solved").mkdir(exist_ok=True)
    engine = load_engine("smollm2", context=CONTEXT, max_batch=batch)
    files = {work / "pool.jsonl": sizes.pool}
    files |= {work / "sets" / f"{name}.jsonl": sizes.questions for name in SETS}
    for file, limit in files.items():
        out = work / "solved" / f"{file.stem}.json"
        if out.is_file():
            continue
        questions = load_benchmark(file, limit).questions
        verdicts = attempt(engine, questions, max_tokens=256, concurrency=batch)
        right = sum(map(bool, verdicts))
        out.write_text(json.dumps(dict(zip((q.id for q in questions), verdicts, strict=True))))
        print(f"{file.stem}: {right} of {len(questions)} solved", flush=True)
    asyncio.run(engine.close())


def curate(work: Path, sizes: Sizes) -> None:
    """The datasets of the study, each a folder of `s1 curate` and a training file with the spans without loss."""
    from s1.data.curate_settings import CurateSettings
    from s1.data.decontaminate import read_benchmarks
    from s1.data.pipeline import curate as run
    from s1.data.pool import read_pool

    solved = json.loads((work / "solved" / "pool.json").read_text())
    rows = {row["id"]: row for row in islice(_lines(work / "pool.jsonl"), sizes.pool)}
    verdicts = zip(rows.values(), solved.values(), strict=True)  # in the order of the file
    joined = [row | {"solved_smollm2": float(bool(verdict))} for row, verdict in verdicts]
    (work / "attempted.jsonl").write_text("".join(json.dumps(row) + "\n" for row in joined))
    benchmarks = read_benchmarks([str(work / "sets" / f"{name}.jsonl") for name in SETS])
    pool, n = read_pool(work / "attempted.jsonl"), sizes.selected
    plans = [(kind, seed) for kind in ("s1k", "random") for seed in sizes.seeds] + [("full", 0)]
    for strategy, seed in plans:
        out = work / "data" / f"{'curated' if strategy == 's1k' else strategy}-{seed}"
        if not out.is_dir():
            # Templates share word 8-grams, so only whole questions are compared.
            settings = CurateSettings(n=n, seed=seed, strategy=strategy, ngram=0)  # type: ignore[arg-type]
            ledger = run(pool, settings, out, benchmarks=benchmarks)
            print(out.name, [f"{stage.name} {dict(stage.dropped)}" for stage in ledger.stages], flush=True)
        chosen = _chosen(out, rows)
        fields = ("id", "question", "answer", "thinking", "attempt", "source", "untrained")
        text = "".join(json.dumps({f: row[f] for f in fields}) + "\n" for row in chosen)
        (work / "data" / f"{out.name}.jsonl").write_text(text)


def _chosen(folder: Path, rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    import polars as pl

    return [rows[key] for key in pl.read_parquet(folder / "dataset.parquet")["id"]]


def train(work: Path, name: str, out: Path, settings: TrainSettings) -> None:
    """Fine-tune on WORK/data/NAME.jsonl."""
    from s1.data.read_traces import read_traces
    from s1.formats import FORMATS
    from s1.train.sft import train as run

    run("smollm2", read_traces(work / "data" / f"{name}.jsonl"), out, FORMATS["s1"], settings)
    record = json.loads((out / "train.json").read_text())
    print(f"{out.name}: loss {record['loss']:.3f}, {record['seconds']} s", flush=True)


def evaluate(
    model: str, file: Path, out: Path, batch: int, policies: tuple[BudgetPolicy, ...], limit: int | None
) -> None:
    """Run and grade the policies on one test set."""
    from s1.engines import load_engine
    from s1.evals.benchmarks import load_benchmark
    from s1.evals.run import Plan
    from s1.evals.run import evaluate as run
    from s1.formats import FORMATS

    engine = load_engine(model, context=CONTEXT, max_batch=batch)
    try:
        metrics = run(load_benchmark(file, limit), engine, FORMATS["s1"], Plan(policies), out, model=model)
    finally:
        asyncio.run(engine.close())
    shown = ", ".join(f"{p.key or 'natural'} {p.accuracy:.1f}" for p in metrics.points)
    print(f"{out}: {shown}", flush=True)


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, file.read_text(encoding="utf-8").rstrip("\n").split("\n"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=("attempts", "curate", "train", "evaluate"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=64, help="requests decoded at once (a GPU takes 1024)")
    parser.add_argument("--only", default="", help="one dataset or model, such as curated-0")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--full", action="store_true", help="full fine-tuning instead of an adapter")
    parser.add_argument("--quick", action="store_true", help="a few rows and steps: does everything run?")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="another training setting"
    )
    parser.add_argument("--out", default="", help="name of the model, where it is not that of the dataset")
    arguments = parser.parse_args()
    work, sizes = arguments.work, QUICK if arguments.quick else Sizes()
    pattern, source = NEEDED[arguments.stage]
    needed = pattern.format(arguments.only or "*")
    found = sorted(work.glob(needed))
    if not found and arguments.only != "base":
        parser.error(f"{work / needed} is missing; {source} writes it")
    if arguments.stage == "attempts":
        attempts(work, arguments.batch, sizes)
    elif arguments.stage == "curate":
        curate(work, sizes)
    elif arguments.stage == "train":
        import torch

        from s1.config import load_settings

        for name in (file.stem for file in found):
            seed = int(name.rpartition("-")[2])
            defaults = replace(
                FULL if arguments.full else LORA,
                seed=seed,
                max_steps=sizes.steps,
                device_batch=16 if torch.cuda.is_available() else 4,  # faster on two cores, and 24 GB hold it
            )
            settings = load_settings(defaults, None, arguments.set)
            default = name if arguments.full else f"{name}-lora"
            train(work, name, work / "models" / (arguments.out or default), settings)
    else:
        for name in [*(m.name for m in found), *(["base"] if arguments.only in ("", "base") else [])]:
            for chosen in arguments.sets.split(","):
                model = "smollm2" if name == "base" else str(work / "models" / name)
                file = work / ("dev.jsonl" if chosen == "dev" else f"sets/{chosen}.jsonl")
                policies = POLICIES[6:8] if chosen == "dev" else POLICIES
                out = work / "runs" / f"{name}-{chosen}"
                evaluate(model, file, out, arguments.batch, policies, sizes.questions)


if __name__ == "__main__":
    main()
