"""The petri world as the stages see it: a base model, a pool, a benchmark, a training recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.errors import BadInput
from s1.petri.tasks import Split, make_problems
from s1.petri.teacher import make_pool
from s1.types import Question, question_id

if TYPE_CHECKING:
    from s1.data.pool import Pool
    from s1.evals.benchmarks import Benchmark
    from s1.train.settings import TrainSettings

WEIGHTS = Path(__file__).parent / "weights"
TEST_SEED = 20_27
"""Seed of the published test set. Tuning used the split "dev" only."""


def base_model() -> Path:
    """The folder of the shipped base weights. Raises BadInput when they are missing."""
    if not (WEIGHTS / "model.safetensors").is_file():
        raise BadInput(
            f"The petri base weights are missing from {WEIGHTS}.",
            "Reinstall s1, or train them in a checkout: python -m scripts.petri.pretrain --out s1/petri/weights",
        )
    return WEIGHTS


def questions(n: int, split: Split = "test", seed: int = TEST_SEED) -> tuple[Question, ...]:
    """`n` questions with families and difficulties in equal shares; the base and the pool see "train" only."""
    return tuple(
        Question(
            question_id(p.question, f"petri/{p.family}"),
            p.question,
            p.answer,
            f"petri/{p.family}",
            meta={"family": p.family, "difficulty": p.difficulty},
        )
        for p in make_problems(split, n, seed)
    )


def benchmark(n: int = 500, split: Split = "test", seed: int = TEST_SEED) -> Benchmark:
    """The questions as a benchmark, graded by exact match."""
    from s1.evals.benchmarks import Benchmark

    test_set = questions(n, split, seed)
    return Benchmark("petri", "exact", test_set, f"petri {split}, seed {seed}")


def pool(n: int = 10_000, seed: int = 0) -> Pool:
    """The petri pool with the columns of `s1.data.pool`, without the audit column `flaw`."""
    import polars as pl

    from s1.data.pool import pool_of_frame

    rows = pl.DataFrame(make_pool(n, seed), infer_schema_length=None).with_columns(
        pl.struct("question", "source")
        .map_elements(lambda r: question_id(r["question"], r["source"]), return_dtype=pl.String)
        .alias("id"),
        trace_tokens=pl.col("thinking").str.split(" ").list.len().cast(pl.Int64),
        trace_by=pl.lit("petri teacher"),
        cot_type=pl.lit("petri"),
    )
    return pool_of_frame(rows, files=(f"petri pool, {n} rows, seed {seed}",))


def train_settings(seed: int = 0, **changes: Any) -> TrainSettings:
    """The fine-tuning recipe of the petri world; a tiny model needs a larger learning rate."""
    from s1.train.settings import TrainSettings

    settings = TrainSettings(
        epochs=4,
        batch=16,
        device_batch=16,
        learning_rate=1e-3,
        max_length=1024,
        seed=seed,
        answer_prefix="Answer : ",
    )
    return replace(settings, **changes)
