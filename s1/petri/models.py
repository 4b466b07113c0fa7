"""The models that a recipe needs, made on the petri world: each set of the pool, each kind of conditioning."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from s1.data.pool import read_pool
from s1.petri import world
from s1.petri.demo import attempted
from s1.petri.teacher import JOIN

if TYPE_CHECKING:
    from s1.data.pool import Pool
    from s1.evals.recipes import ModelPlan
    from s1.types import Trace

Count = Callable[[str, int, int], None]
Steps = Callable[[str], Callable[[int, int, float | None], None]]


def make_models(
    wanted: Mapping[str, ModelPlan],
    out: Path,
    *,
    n: int = 1000,
    pool: int = 10_000,
    seed: int = 0,
    max_steps: int = -1,
    count: Count = lambda name, done, total: None,
    steps: Steps = lambda name: lambda step, total, loss: None,
) -> dict[str, str]:
    """Trains what `wanted` names, each into a folder below `out`, and returns the folders by name.

    A folder that is finished is not trained again; one that was stopped goes on. All take as many
    optimiser steps as `main`, the s1k set, so that the full pool has no more compute than a thousand.
    """
    from s1.formats import FORMATS
    from s1.train.sft import train

    rows = _pool(out / "pool", pool, seed, count)
    settings = world.train_settings(seed, between_steps=re.escape(JOIN))
    most = max_steps if max_steps > 0 else settings.epochs * -(-n // settings.batch)
    made = {}
    for name, plan in wanted.items():
        folder = train(
            str(world.base_model()), training_set(rows, plan.strategy, n, seed), out / name, FORMATS["petri"],
            replace(settings, max_steps=most, conditional=plan.conditional), progress=steps(name),
        )  # fmt: skip
        made[name] = str(folder)
    return made


def training_set(pool: Pool, strategy: str, n: int, seed: int) -> list[Trace]:
    """The traces of one set of the pool."""
    from s1.data.pipeline import CurateSettings, curate
    from s1.data.quality import PETRI
    from s1.data.read_traces import as_traces

    settings = CurateSettings(n=n, seed=seed, strategy=strategy, quality=PETRI, ngram=0)  # type: ignore[arg-type]
    return as_traces(curate(pool, settings).selected)


def _pool(folder: Path, n: int, seed: int, count: Count) -> Pool:
    """The pool with the base's attempts, kept because they are the slow part."""
    file = folder / f"pool-{n}-{seed}.parquet"
    if not file.is_file():
        found = attempted(world.pool(n, seed), seed, count)
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        found.rows.write_parquet(part)
        part.replace(file)
    return read_pool(file)
