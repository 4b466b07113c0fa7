"""Training sets and models of the petri world, for the demo and for the recipes of the paper's tables."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.data.pool import read_pool
from s1.errors import BadConfig
from s1.petri import world
from s1.petri.teacher import JOIN
from s1.types import Question, Sampling

if TYPE_CHECKING:
    from s1.data.curate_settings import CurateSettings
    from s1.data.ledger import Stage
    from s1.data.pool import Pool
    from s1.evals.recipes import ModelPlan

Count = Callable[[int, int], None]
"""Called with how many are done and how many there are."""


@dataclass(frozen=True, slots=True)
class PetriSizes:
    """How much to train for the recipes."""

    rows: int = 1000
    """Rows of each training set."""
    pool: int = 10_000
    max_steps: int = -1
    """Optimiser steps of each model; -1: as many as four epochs of `rows` take."""
    reward_questions: int = 800


def pool_with_attempts(n: int, seed: int, progress: Count = lambda done, total: None) -> Pool:
    """The pool with two attempts of the base model per question, one greedy and one sampled.

    Rows that the clean stage drops anyway are not attempted.
    """
    import polars as pl

    from s1.data.attempts import attempt
    from s1.data.clean import clean_reasons
    from s1.data.curate_settings import PETRI_CLEAN
    from s1.engines import load_engine

    pool = world.pool(n, seed)
    rows = pool.rows
    kept = rows.filter(clean_reasons(rows, PETRI_CLEAN).is_null())
    questions = [Question(r["id"], r["question"], r["answer"]) for r in kept.iter_rows(named=True)]
    solved: dict[str, Any] = {"id": kept["id"]}
    kinds = (("greedy", Sampling()), ("sampled", Sampling(temperature=0.8, seed=seed)))
    engine = load_engine(str(world.base_model()), max_batch=256)
    try:
        for i, (name, sampling) in enumerate(kinds):

            def count(done: int, total: int, before: int = i) -> None:
                progress(before * total + done, len(kinds) * total)

            verdicts = attempt(
                engine, questions, kind="exact", sampling=sampling, max_tokens=12, progress=count
            )
            solved[f"solved_base_{name}"] = [float(v) if v is not None else None for v in verdicts]
    finally:
        asyncio.run(engine.close())
    index = pool.index.join(pl.DataFrame(solved), on="id", how="left", maintain_order="left")
    return replace(pool, index=index)


def curate_settings(n: int, seed: int, strategy: str = "s1k") -> CurateSettings:
    """Settings for the petri pool.

    Its templates share word 8-grams by nature, so that only whole questions are compared (docs/petri.md).
    """
    from s1.data.curate_settings import PETRI_CLEAN, CurateSettings

    return CurateSettings(n=n, seed=seed, strategy=strategy, clean=PETRI_CLEAN, ngram=0)  # type: ignore[arg-type]


def make_dataset(
    out: Path,
    *,
    n: int,
    pool: int,
    seed: int,
    questions: int,
    stage: Callable[[Stage], None] = lambda stage: None,
    progress: Count = lambda done, total: None,
) -> None:
    """Curate `n` of `pool` rows into the folder `out`, decontaminated against the first test questions.

    Does nothing when `out` holds this dataset already; raises BadConfig when it holds another one.
    """
    from s1.data.decontaminate import benchmark_frame
    from s1.data.pipeline import curate

    if (out / "ledger.json").is_file():
        ledger = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
        wanted = {"n": n, "seed": seed, "pool": pool}
        found = {"n": ledger["asked"], "seed": ledger["seed"], "pool": ledger["input"]["rows"]}
        if found != wanted:
            raise BadConfig(f"{out} holds a dataset with {found}, not {wanted}.", "Choose another --out.")
        return
    test = world.questions(questions)
    benchmarks = benchmark_frame("petri", [q.id for q in test], [q.text for q in test])
    rows = pool_with_attempts(pool, seed, progress)
    curate(rows, curate_settings(n, seed), out, benchmarks=benchmarks, progress=stage)


def stored_pool(folder: Path, n: int, seed: int, progress: Count = lambda done, total: None) -> Pool:
    """The pool with attempts, read from `folder` if it is there: the attempts are the slow part."""
    file = folder / f"pool-{n}-{seed}.parquet"
    if not file.is_file():
        pool = pool_with_attempts(n, seed, progress)
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        pool.rows.write_parquet(part)
        part.replace(file)
    return read_pool(file)


def make_model(
    plan: ModelPlan,
    out: Path,
    pool: Pool,
    sizes: PetriSizes,
    seed: int,
    progress: Callable[[int, int, float | None, str], None] = lambda step, steps, loss, detail: None,
) -> Path:
    """Train the model that a recipe asks for, on one set of the pool, into the folder `out`. Returns `out`.

    Every model takes as many optimiser steps as a set of `sizes.rows` rows, so that the full pool gets no
    more compute than the selected thousand. A finished folder is left alone, an interrupted one resumed.
    """
    from s1.data.pipeline import curate
    from s1.data.read_traces import as_traces
    from s1.formats import FORMATS
    from s1.train.sft import train

    settings = world.train_settings(seed, between_steps=re.escape(JOIN), conditional=plan.conditional)
    steps = sizes.max_steps if sizes.max_steps > 0 else settings.epochs * -(-sizes.rows // settings.batch)
    traces = as_traces(curate(pool, curate_settings(sizes.rows, seed, plan.strategy)).selected)
    base = str(world.base_model())
    return train(base, traces, out, FORMATS["petri"], replace(settings, max_steps=steps), progress=progress)
