"""The pipeline: a pool through clean, difficulty, decontaminate and select, with the fate of every row recorded.

Under "strict" the stages run in that order and decontamination spares no source. Under "official"
decontamination comes first and leaves the sources in `exempt_sources` out, as the authors added AIME after it.
The ablation strategies skip difficulty, as in the paper. A single stage is a pipeline of one: the same function
with the same settings, so stages run one after another keep the rows that the whole pipeline keeps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from s1.data.clean import clean_pool
from s1.data.curate_settings import CurateSettings
from s1.data.decontaminate import HIT_COLUMNS, duplicate_reasons, find_hits, hit_reasons
from s1.data.difficulty import difficulty_reasons, share_of_question
from s1.data.ledger import Ledger, Stage, count_stage
from s1.data.near_duplicates import NEAR_COLUMNS, near_pairs, near_reasons
from s1.data.output import refuse_existing, write_dataset
from s1.data.partitions import no_reasons
from s1.data.pool import Pool
from s1.data.select import select
from s1.errors import BadInput


class Prepared(NamedTuple):
    """A pool with new columns, remarks for its ledger, and tables by file name."""

    pool: Pool
    notes: Sequence[str] = ()
    tables: Mapping[str, pl.DataFrame] = {}


class StageOutcome(NamedTuple):
    """What a stage found: a reason for each row that it drops (null: stays), remarks, and tables by file name."""

    reasons: pl.Series
    notes: Sequence[str] = ()
    tables: Mapping[str, pl.DataFrame] = {}
    kept: pl.DataFrame | None = None
    """The rows that stay, where they come in another order or with another column."""


def curate(
    pool: Pool,
    settings: CurateSettings = CurateSettings(),
    out: str | Path | None = None,
    *,
    benchmarks: pl.DataFrame | None = None,
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Ledger:
    """Runs the whole pipeline and, where `out` is named, writes the dataset folder (see `output`).

    `benchmarks` is what `read_benchmarks` gives; without it only copies within the pool are dropped, and the
    ledger says so. Raises BadInput when the output folder is taken or no row survives.
    """
    if out is not None:
        refuse_existing(Path(out))
    order = ["clean", "difficulty", "decontaminate", "select"]
    if settings.profile == "official":
        order = ["decontaminate", "clean", "difficulty", "select"]
    notes = []
    if settings.strategy != "s1k":
        order.remove("difficulty")
        notes.append(f"Strategy {settings.strategy}: no difficulty stage, as in the paper's ablations.")
    ledger = run_stages(pool, order, settings, benchmarks=benchmarks, notes=notes, progress=progress)
    if out is not None:
        write_dataset(ledger, Path(out))
    return ledger


def run_stages(
    pool: Pool,
    stages: Sequence[str],
    settings: CurateSettings = CurateSettings(),
    *,
    benchmarks: pl.DataFrame | None = None,
    notes: Sequence[str] = (),
    tables: Mapping[str, pl.DataFrame] = {},
    progress: Callable[[Stage], None] = lambda stage: None,
) -> Ledger:
    """Runs some stages, by their names on the command line; `notes` and `tables` go before their own.

    Raises BadInput when no row is left before the last of them.
    """
    rows = pool.index
    sources = pl.concat([rows["source"], pool.rejects["source"]])
    counts = [count_stage("reading", sources, pl.concat([no_reasons(rows), pool.rejects["reason"]]))]
    progress(counts[0])
    notes = list(notes)
    dropped = [pool.rejects.rename({"question": "_question"}).with_columns(stage=pl.lit("reading"))]
    tables = dict(tables)
    for name in stages:
        if not rows.height:
            raise BadInput(
                f"No row is left after {counts[-1].name}: {dict(counts[-1].dropped)}.",
                "Loosen that stage, or check the pool.",
            )
        found = _run_stage(name, pool, rows, settings, benchmarks)
        counts.append(count_stage(name, rows["source"], found.reasons))
        progress(counts[-1])
        fates = rows.select("id", "source", found.reasons.alias("reason"), stage=pl.lit(name))
        dropped.append(fates.filter(pl.col("reason").is_not_null()))
        rows = rows.filter(found.reasons.is_null()) if found.kept is None else found.kept
        notes += found.notes
        tables |= found.tables
    columns = ("id", "source", "stage", "reason", "file", "row", "field", "_question")
    rejected = pl.concat(dropped, how="diagonal").select(columns)
    return Ledger(pool, settings, rows, rejected, tuple(counts), tables, tuple(notes))


def _run_stage(
    name: str, pool: Pool, rows: pl.DataFrame, settings: CurateSettings, benchmarks: pl.DataFrame | None
) -> StageOutcome:
    """What a stage finds in `rows`: the rows of the index that are still in."""
    match name:
        case "clean":
            return StageOutcome(clean_pool(pool, rows, settings.clean, settings.profile))
        case "difficulty":
            return _difficulty(rows, settings)
        case "decontaminate":
            return _decontaminate(pool, rows, settings, benchmarks)
        case "select":
            return _select(rows, settings)
        case "collect" | "teach" | "diversity":  # they only prepare the pool
            return StageOutcome(no_reasons(rows))
    raise ValueError(name)


def _difficulty(rows: pl.DataFrame, settings: CurateSettings) -> StageOutcome:
    notes = []
    models = [c for c in rows.columns if c.startswith("solved_")]
    if not models:
        notes.append("No solved_MODEL column: the difficulty rule had nothing to apply to.")
    elif ungraded := rows.filter(pl.any_horizontal(share_of_question(m).is_null() for m in models)).height:
        notes.append(f"{ungraded} rows lack a graded attempt of some model; that model did not count.")
    return StageOutcome(difficulty_reasons(rows, most_solved=settings.most_solved), notes)


def _decontaminate(
    pool: Pool, rows: pl.DataFrame, settings: CurateSettings, benchmarks: pl.DataFrame | None
) -> StageOutcome:
    """Benchmark hits first, then copies among the rows that stay, then near duplicates among those."""
    reasons, hits = no_reasons(rows), pl.DataFrame(schema=HIT_COLUMNS)
    if benchmarks is not None:
        hits = find_hits(pool, rows, benchmarks, n=settings.ngram, profile=settings.profile)
        reasons = hit_reasons(rows, hits)
        if settings.profile == "official":
            spared = rows["source"].str.contains(settings.exempt_sources)
            reasons = pl.select(pl.when(~spared).then(reasons).alias("reason")).to_series()

    def fill(more: Callable[[pl.DataFrame], pl.Series]) -> pl.Series:
        # Only among the rows that stay: a dropped row must not take its clean copy with it.
        clean = rows.filter(reasons.is_null())
        at = pl.select(at=reasons.is_null().arg_true()).to_series()
        return reasons.scatter(at, more(clean)) if clean.height else reasons

    reasons = fill(lambda clean: duplicate_reasons(clean, by=settings.duplicates))
    pairs = pl.DataFrame(schema=NEAR_COLUMNS)
    if settings.near:
        pairs = near_pairs(pool, rows.filter(reasons.is_null()), settings.near)
        reasons = fill(lambda clean: near_reasons(clean, pairs))
    note = "No benchmark was named: nothing was checked against test questions."
    if benchmarks is not None:
        counts = benchmarks.group_by("benchmark", maintain_order=True).len().iter_rows()
        named = ", ".join(f"{count} of {name}" for name, count in counts)
        note = f"Checked against benchmark questions: {named}."
    return StageOutcome(reasons, [note], {"hits.jsonl": hits, "near.jsonl": pairs})


def _select(rows: pl.DataFrame, settings: CurateSettings) -> StageOutcome:
    chosen, notes = select(rows, settings)
    taken = rows["id"].is_in(chosen["id"].implode())
    reasons = pl.select(pl.when(~taken).then(pl.lit("not drawn")).alias("reason")).to_series()
    return StageOutcome(reasons, notes, kept=chosen)
