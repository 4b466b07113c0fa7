"""Run the whole path on the petri world: pool, curate, train, sweep, report, in about five minutes on two cores.

Everything is really computed: the base weights ship with s1, the rest is made here. A demo that was
interrupted resumes. The time depends on the processor and on what else runs on it: 5 minutes on two idle cores, 14
where others used them; after a few seconds the demo says how long it takes here. docs/petri.md says what this small
world can and cannot show.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import time
from pathlib import Path
from typing import NamedTuple

from s1.cli.evaluation import write_report
from s1.cli.options import DEMO, silence_libraries
from s1.cli.progress import ProgressBar, duration
from s1.engines import load_engine
from s1.errors import require
from s1.evals.run import Plan, evaluate, policies_of
from s1.formats import FORMATS, choose_format
from s1.jsonl import locked
from s1.petri import world
from s1.policy import BudgetPolicy
from s1.report.text import metrics_text
from s1.terminal import visible
from s1.train.sft import train
from s1.train.trainer import use_one_gpu


class Sizes(NamedTuple):
    """How many rows are in the pool, how many are selected, and how many questions are asked."""

    pool: int
    n: int
    questions: int
    attempts: float
    """The part of the whole time that the attempts of the base model take, as measured on two machines."""


FULL, QUICK = Sizes(10_000, 1000, 400, 0.43), Sizes(700, 240, 60, 0.18)
FORECAST_SECONDS = 5.0
"""When the demo says how long it will take: the speed of the processor is then known."""
BUDGETS, WAITS = (16, 32, 64, 128), (1, 2, 4)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=DEMO, metavar="DIR", help=f"run folder (default: {DEMO})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of pool, selection and training")
    parser.add_argument(
        "--quick", action="store_true",
        help=f"a minute instead of five: {QUICK.n} of {QUICK.pool} traces, {QUICK.questions} questions",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    require("hf", "data", "train", "report")
    with locked(arguments.out):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    from s1.data.read_traces import read_traces
    from s1.petri.training import make_dataset

    use_one_gpu()
    silence_libraries()
    out, seed, sizes = arguments.out, arguments.seed, QUICK if arguments.quick else FULL
    began = time.perf_counter()

    print(visible(f"1/4 curate: {sizes.pool:,} questions with traces of the teacher"))
    with ProgressBar("  attempts of the base model") as bar:
        began_at: list[tuple[float, int]] = []
        is_forecast = False

        def attempted(done: int, total: int) -> None:
            nonlocal is_forecast
            bar.update(done, total)
            began_at.append((time.perf_counter(), done))
            passed, more = began_at[-1][0] - began_at[0][0], done - began_at[0][1]
            if more and not is_forecast and passed >= FORECAST_SECONDS:
                is_forecast = True
                print(
                    visible(
                        f"  about {duration(passed * total / more / sizes.attempts)} in all on this machine"
                    )
                )

        make_dataset(
            out / "curated", n=sizes.n, pool=sizes.pool, questions=sizes.questions, seed=seed,
            stage=lambda stage: print(visible("  " + stage.line)), progress=attempted,
        )  # fmt: skip

    print(visible(f"2/4 train: the base model on the {sizes.n} selected traces, 4 epochs"))
    base, traces, settings = str(world.base_model()), read_traces(out / "curated"), world.train_settings(seed)
    with ProgressBar("  train") as bar:
        model = train(base, traces, out / "model", FORMATS["petri"], settings, progress=bar.show_training)

    print(visible(f"3/4 sweep: {sizes.questions} unseen questions, {len(BUDGETS)} budgets, the natural end, "
          f"{', '.join(map(str, WAITS))} waits"))  # fmt: skip
    plan = Plan(policies_of(BUDGETS, WAITS, base=BudgetPolicy(max_answer=12)))
    engine = load_engine(str(model), max_batch=256)
    try:
        with ProgressBar("  sweep") as bar:
            metrics = evaluate(world.benchmark(sizes.questions), engine, choose_format(engine), plan, out,
                               model="the model of this demo", progress=bar.show_run)  # fmt: skip
    finally:
        asyncio.run(engine.close())

    print("4/4 report")
    written = write_report(out)
    print(visible(metrics_text(metrics)))
    for path in written:
        print(visible(f"Written: {path}"))
    print(visible(f"{duration(time.perf_counter() - began)} in all"))
    print(
        visible(f'Try it: s1 think "solve 4 x + 11 = 16 mod 23" --waits 4 --model {shlex.quote(str(model))}')
    )
    return 0
