"""The demo: every stage of the project on the petri world, each kept on disk so that a second call goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.errors import BadConfig
from s1.petri import world
from s1.types import Question, Sampling

if TYPE_CHECKING:
    from s1.data.ledger import Stage
    from s1.data.pool import Pool
    from s1.evals.metrics import Metrics
    from s1.evals.run import RunProgress

BUDGETS = (16, 32, 64, 128)
WAITS = (1, 2, 4)


@dataclass
class Demo:
    """Settings of one demo; `run` goes through its stages."""

    out: Path
    seed: int = 0
    questions: int = 400
    n: int = 1000
    pool: int = 10_000

    def run(
        self,
        say: Callable[[str], None],
        stage: Callable[[Stage], None],
        count: Callable[[str, int, int], None],
        steps: Callable[[int, int, float | None], None],
        progress: Callable[[RunProgress], None],
    ) -> Metrics:
        """All stages; returns the metrics of the sweep."""
        from s1.data.read_traces import read_traces
        from s1.engines import load_engine
        from s1.evals.run import Plan, evaluate, policies_of
        from s1.formats import FORMATS, choose_format
        from s1.policy import BudgetPolicy
        from s1.train.sft import train

        self._check()
        self.out.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        say(f"1/4 curate: {self.pool:,} questions with traces of the teacher")
        curated = self.out / "curated"
        if not self._is_curated(curated):
            self._curate(curated, stage, count)
            say(f"  {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        say(f"2/4 train: the base model on the {self.n} selected traces, 4 epochs")
        settings = world.train_settings(self.seed)
        model = train(str(world.base_model()), read_traces(curated), self.out / "model", FORMATS["petri"], settings,
                      progress=steps)  # fmt: skip
        say(f"  {time.perf_counter() - began:.0f} s")
        began = time.perf_counter()
        say(f"3/4 sweep: {self.questions} questions that nobody has seen, {len(BUDGETS)} budgets, the natural end, "
            f"{', '.join(map(str, WAITS))} waits")  # fmt: skip
        engine = load_engine(str(model), max_batch=256)
        try:
            plan = Plan(policies_of(BUDGETS, WAITS, base=BudgetPolicy(max_answer=12)))
            metrics = evaluate(world.benchmark(self.questions), engine, choose_format(engine), plan, self.out,
                               model="petri, curated", progress=progress)  # fmt: skip
        finally:
            asyncio.run(engine.close())
        say(f"  {time.perf_counter() - began:.0f} s")
        say("4/4 report")
        return metrics

    def _check(self) -> None:
        for name, most in (("questions", 2000), ("n", self.pool), ("pool", 20_000)):
            if not 1 <= getattr(self, name) <= most:
                raise BadConfig(f"{name} is {getattr(self, name)}.", f"Use 1 to {most}.")

    def _is_curated(self, curated: Path) -> bool:
        """Whether the dataset of this very demo is there already."""
        if not (curated / "ledger.json").is_file():
            return False
        ledger = json.loads((curated / "ledger.json").read_text(encoding="utf-8"))
        asked = {"n": self.n, "seed": self.seed, "pool": self.pool}
        found = {"n": ledger["asked"], "seed": ledger["seed"], "pool": ledger["input"]["rows"]}
        if found != asked:
            raise BadConfig(f"{self.out} holds a demo with {found}, not {asked}.", "Choose another --out.")
        return True

    def _curate(
        self, curated: Path, stage: Callable[[Stage], None], count: Callable[[str, int, int], None]
    ) -> None:
        from s1.data.decontaminate import benchmark_frame
        from s1.data.pipeline import CurateSettings, curate
        from s1.data.quality import PETRI

        pool = attempted(world.pool(self.pool, self.seed), self.seed, count)
        # Templates share word 8-grams by nature: exact matches only (docs/petri.md).
        settings = CurateSettings(n=self.n, seed=self.seed, quality=PETRI, ngram=0)
        test = world.exam(self.questions)
        benchmarks = benchmark_frame("petri", [q.id for q in test], [q.text for q in test])
        curate(pool, settings, curated, benchmarks=benchmarks, progress=stage)


def attempted(pool: Pool, seed: int, count: Callable[[str, int, int], None]) -> Pool:
    """The pool with the base model's attempts: one greedy, one sampled. Rows that quality drops are not tried."""
    import polars as pl

    from s1.data.attempts import attempt
    from s1.data.quality import PETRI, quality_reasons
    from s1.engines import load_engine

    rows = pool.rows.with_columns(_dropped=quality_reasons(pool.rows, PETRI).is_not_null())
    tried = rows.filter(~pl.col("_dropped"))
    questions = [Question(r["id"], r["question"], r["answer"]) for r in tried.iter_rows(named=True)]
    engine = load_engine(str(world.base_model()), max_batch=256)
    try:
        found: dict[str, Any] = {"id": tried["id"]}
        for name, sampling in (("greedy", Sampling()), ("sampled", Sampling(temperature=0.8, seed=seed))):
            told = partial(count, f"{name} attempts")
            verdicts = attempt(
                engine, questions, kind="exact", sampling=sampling, max_tokens=12, progress=told
            )
            found[f"solved_base_{name}"] = [float(v) if v is not None else None for v in verdicts]
    finally:
        asyncio.run(engine.close())
    return replace(pool, rows=rows.drop("_dropped").join(pl.DataFrame(found), on="id", how="left"))
