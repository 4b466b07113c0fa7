"""Each stage of curation alone: a pool in, a folder out.

    OUT/pool.parquet     the rows that stay, in the columns of a pool; the next stage reads the folder
    OUT/rejected.jsonl   the others: id, source, stage, reason, question (file, row, field from reading)
    OUT/stage.json       {"schema": 1, "stages": [counts of reading and of the stage], "settings", "notes"}
    OUT/hits.jsonl, OUT/near.jsonl   decontamination: benchmark hits, near duplicates
    OUT/attempts.jsonl   difficulty: one object for each attempt
    OUT/journal.jsonl    teach, difficulty, diversity: every model call (see `journal`)

stage.json is written last. A folder of the same stage may be written again: model calls come from its
journal, so the same command after a kill goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from s1.clients.call_cache import CallCache
from s1.clients.map_calls import Caller, Watch, check_samples, map_calls
from s1.data.answer_judge import judge_all
from s1.data.decontaminate import contamination
from s1.data.difficulty import difficulty_reasons, join_attempts
from s1.data.domains import MSC, classify
from s1.data.ledger import Stage, count_stage, rejects_of
from s1.data.output import write_parquet, write_rejected
from s1.data.partitions import Shards, gather, gathered, memory_shards
from s1.data.pipeline import as_shards
from s1.data.pool import Pool, conform
from s1.data.quality import QualitySettings, shards_quality
from s1.errors import BadConfig, BadInput
from s1.grading.judge import Attempt
from s1.jsonl import dump_line, parse_object, write_bytes, write_json

if TYPE_CHECKING:
    import polars as pl

STAGE_FILES = (
    "pool.parquet", "rejected.jsonl", "stage.json", "hits.jsonl", "near.jsonl", "attempts.jsonl",
    "journal.jsonl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage kept and dropped, its counts, and the tables that belong to it.

    `kept` and `rejected` are light: rows of the index of `shards`, and what `ledger.rejects_of` gives.
    """

    name: str
    kept: pl.DataFrame
    rejected: pl.DataFrame
    shards: Shards
    stages: tuple[Stage, ...]
    tables: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> pl.DataFrame:
        """The rows that stay with all columns of a pool, in memory."""
        return gathered(self.shards, self.kept)


def finish_stage(
    name: str,
    pool: Pool | Shards,
    rows: pl.DataFrame,
    reasons: pl.Series,
    *,
    tables: Mapping[str, pl.DataFrame] | None = None,
    notes: Sequence[str] = (),
) -> StageResult:
    """The result of a stage that looked at `rows` and gave reasons, null for a row that stays.

    `rows` are the pool's, sorted by id and perhaps with more columns: of the index where the pool is out of core.
    """
    import polars as pl

    shards = pool
    if isinstance(shards, Pool):
        shards = memory_shards(conform(rows), shards.rejects, shards.files)
        rows = shards.index
    nothing = pl.Series([None] * rows.height, dtype=pl.String)
    read = pl.concat([rows["source"], shards.rejects["source"]])
    fates = pl.concat([nothing, shards.rejects["reason"]])
    counts = count_stage("reading", read, fates), count_stage(name, rows["source"], reasons)
    rejected = rejects_of(shards.rejects, [(name, rows, reasons)])
    kept = rows.filter(reasons.is_null())
    return StageResult(name, kept, rejected, shards, counts, tables or {}, tuple(notes))


def clean(pool: Pool | Shards, settings: QualitySettings = QualitySettings()) -> StageResult:
    """Drops rows by the rules of `quality`."""
    shards = as_shards(pool)
    return finish_stage("clean", shards, shards.index, shards_quality(shards, shards.index, settings))


def decontaminate(
    pool: Pool | Shards,
    benchmarks: pl.DataFrame | None,
    *,
    n: int = 8,
    duplicates: Literal["question", "trace", "off"] = "question",
    near: float = 0.0,
) -> StageResult:
    """Drops benchmark hits, copies and near duplicates; see `contamination`."""
    shards = as_shards(pool)
    found = contamination(shards, benchmarks, n=n, duplicates=duplicates, near=near)
    tables = {"hits.jsonl": found.hits, "near.jsonl": found.near}
    notes = () if benchmarks is not None else ("No benchmark was named: only copies were looked for.",)
    return finish_stage("decontaminate", shards, shards.index, found.reasons, tables=tables, notes=notes)


def difficulty(
    pool: Pool | Shards,
    models: Sequence[Caller],
    judge: Caller | None,
    journal: CallCache,
    *,
    attempts: int = 1,
    most_solved: float = 0.0,
    progress: Watch = lambda p: None,
) -> StageResult:
    """Has each model attempt each question, grades that and the teacher's answers, drops what is too easy.

    `solved_MODEL` becomes the share of the model's attempts that were right; `correct` is filled in where it
    was null. Without models the `solved_` columns of the pool decide.
    """
    import polars as pl

    names = [m.name for m in models]
    if len(set(names)) < len(names):
        raise BadConfig("Two models have the same name.", "Name each model once.")
    for model in models:
        check_samples(model, attempts)
    shards, notes = as_shards(pool), list[str]()
    rows = shards.index
    asked = gathered(shards, rows, ["question", "answer", "attempt", "correct"])
    tried, refused = asyncio.run(_attempts(asked, models, judge, journal, attempts, progress))
    own = [a for a in tried if a["model"] is None]
    if own:
        verdicts = pl.DataFrame({"id": [a["id"] for a in own], "_own": [a["correct"] for a in own]},
                                schema={"id": pl.String, "_own": pl.Boolean})  # fmt: skip
        rows = rows.join(verdicts, on="id", how="left").with_columns(correct=pl.coalesce("correct", "_own"))
        rows = rows.drop("_own")
    columns = {"id": pl.String, "model": pl.String, "sample": pl.Int64, "correct": pl.Boolean,
               "by": pl.String, "answer": pl.String}  # fmt: skip
    table = pl.DataFrame([a for a in tried if a["model"] is not None], schema=columns)
    if models:
        rows = join_attempts(rows, table)
    if refused:
        notes.append(f"{refused} attempts got no reply and do not count.")
    ungraded = sum(a["correct"] is None for a in tried)
    if ungraded:
        notes.append(f"{ungraded} attempts could not be graded and do not count; a judge decides more.")
    rows = rows.sort("id")
    reasons = difficulty_reasons(rows, most_solved=most_solved)
    return finish_stage(
        "difficulty",
        shards,
        rows,
        reasons,
        tables={"attempts.jsonl": table.sort("id", "model", "sample")},
        notes=notes,
    )


async def _attempts(
    rows: pl.DataFrame,
    models: Sequence[Caller],
    judge: Caller | None,
    journal: CallCache,
    attempts: int,
    progress: Watch,
) -> tuple[list[dict[str, Any]], int]:
    """Every attempt with its verdict; `model` is None for the teacher's. How many got no reply."""
    made: dict[str, tuple[dict[str, Any], Attempt]] = {}
    refused = 0
    for row in rows.iter_rows(named=True):
        if row["correct"] is None and row["attempt"]:
            made[f"own\n{row['id']}"] = (
                {"id": row["id"], "model": None},
                Attempt(row["question"], row["attempt"], row["answer"]),
            )
    for model in models:
        asked = [
            (row, k, model.request(row["question"], k))
            for row in rows.iter_rows(named=True)
            for k in range(attempts)
        ]
        await map_calls((r for _, _, r in asked), model, journal, progress=progress)
        for row, k, request in asked:
            reply = journal.get(request.key)
            if reply is None:
                refused += 1
                continue
            what = {"id": row["id"], "model": model.name, "sample": k, "answer": reply.answer}
            made[f"{model.name}\n{row['id']}\n{k}"] = (
                what,
                Attempt(row["question"], reply.answer, row["answer"], reply.finish == "length"),
            )
    verdicts = await judge_all({n: a for n, (_, a) in made.items()}, judge, journal, progress=progress)
    return [
        {**what, "correct": verdicts[n].correct, "by": verdicts[n].by} for n, (what, _) in made.items()
    ], refused


def diversity(
    pool: Pool | Shards,
    classifier: Caller | None,
    journal: CallCache | None,
    *,
    domains: Mapping[str, str] = MSC,
    progress: Watch = lambda p: None,
) -> StageResult:
    """Fills in the `domain` of rows that have none, and counts the domains. Drops nothing.

    Raises BadInput where no row has a domain and no classifier is there to give one.
    """
    import polars as pl

    shards, notes = as_shards(pool), list[str]()
    rows = shards.index
    missing = rows.filter(pl.col("domain").is_null())
    if missing.height and classifier is not None and journal is not None:
        questions = dict(gathered(shards, missing, ["question"]).iter_rows())
        found = asyncio.run(classify(questions, classifier, journal, domains=domains, progress=progress))
        names = pl.Series([found.get(i) for i in rows["id"]], dtype=pl.String)
        rows = rows.with_columns(domain=pl.coalesce("domain", names))
    elif missing.height == rows.height:
        raise BadInput("No row has a domain.", "Name a classifier with --model, or a column with --column.")
    without = rows["domain"].null_count()
    if without:
        notes.append(f"{without} rows have no domain; the selection draws them as one.")
    counts = rows["domain"].drop_nulls().value_counts(sort=True)
    largest = counts.sort(["count", "domain"], descending=[True, False]).head(5)
    listed = ", ".join(f"{name} {count}" for name, count in largest.iter_rows())
    notes.append(f"{counts.height} domains; the largest: {listed}.")
    nothing = pl.Series("reason", [None] * rows.height, dtype=pl.String)
    return finish_stage("diversity", shards, rows, nothing, notes=notes)


def open_stage(out: Path | None, name: str) -> None:
    """Raises BadInput when `out` cannot take the result of the stage `name`: it holds something else."""
    if out is None:
        return
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file, not a folder.", "Name another output folder.")
    others = sorted(f.name for f in out.iterdir() if f.name not in STAGE_FILES) if out.is_dir() else []
    if others:
        raise BadInput(f"{out} holds other files ({others[0]}).", "Name another output folder.")
    if (out / "stage.json").is_file():
        data = parse_object((out / "stage.json").read_bytes(), out / "stage.json", 1)
        before = [s.get("name") for s in data.get("stages", ()) if isinstance(s, dict)]
        if before[-1:] != [name]:
            raise BadInput(
                f"{out} holds the result of another stage ({before[-1] if before else 'unknown'}).",
                "Name another output folder.",
            )


def write_stage(result: StageResult, out: Path, settings: Any = None) -> Path:
    """Writes the folder of a stage, each file in one step and stage.json last."""
    open_stage(out, result.name)
    out.mkdir(parents=True, exist_ok=True)
    (out / "stage.json").unlink(missing_ok=True)
    part = out / "pool.parquet.part"
    write_parquet(gather(result.shards, result.kept) if result.kept.height else [result.rows], part)
    part.replace(out / "pool.parquet")
    part = out / "rejected.jsonl.part"
    write_rejected(result.rejected, result.shards, part)
    part.replace(out / "rejected.jsonl")
    for name, table in result.tables.items():
        write_bytes(out / name, (dump_line(row) for row in table.iter_rows(named=True)))
    write_json(
        out / "stage.json",
        {
            "schema": 1,
            "stages": [s.to_json() for s in result.stages],
            "settings": settings,
            "notes": list(result.notes),
        },
    )
    return out
