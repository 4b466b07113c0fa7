"""What models add to a pool: graded attempts for the difficulty stage, and the domain of each question.

Every call goes through the call cache, so a stage that was interrupted repeats only what was in flight. The
rows that models solve are then dropped by the difficulty stage of `pipeline`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from s1.clients.call_cache import CallCache
from s1.clients.map_calls import Caller, Watch, check_samples, map_calls, no_watch
from s1.data.answer_judge import judge_all
from s1.data.difficulty import join_attempts
from s1.data.domains import classify, read_domains
from s1.data.pipeline import Prepared
from s1.data.pool import Pool
from s1.errors import BadConfig, BadInput
from s1.grading.judge import Attempt


def attempt_questions(
    pool: Pool,
    models: Sequence[Caller],
    judge: Caller | None,
    cache: CallCache,
    *,
    samples: int = 1,
    progress: Watch = no_watch,
) -> Prepared:
    """Has each model attempt each question `samples` times, and grades that and the teacher's answers.

    `solved_MODEL` becomes the share of the model's attempts that were right; `correct` is filled in where it was
    null. The table attempts.jsonl has each attempt with its verdict.
    """
    names = [m.name for m in models]
    if len(set(names)) < len(names):
        raise BadConfig("Two models have the same name.", "Name each model once.")
    for model in models:
        check_samples(model, samples)
    rows = pool.index
    texts = pool.gather_all(rows, ["question", "answer", "attempt", "correct"])
    tried = asyncio.run(_attempts(texts, models, judge, cache, samples, progress))
    schema = {"id": pl.String, "model": pl.String, "sample": pl.Int64, "correct": pl.Boolean,
              "by": pl.String, "answer": pl.String}  # fmt: skip
    everything = pl.DataFrame(tried, schema=schema)
    teachers = everything.filter(pl.col("model").is_null())
    table = everything.filter(pl.col("model").is_not_null())
    if teachers.height:
        verdicts = teachers.select("id", _verdict="correct")
        rows = rows.join(verdicts, on="id", how="left", maintain_order="left")
        rows = rows.with_columns(correct=pl.coalesce("correct", "_verdict")).drop("_verdict")
    if models:
        rows = join_attempts(rows, table).sort("id")
    notes = []
    if refused := len(models) * samples * rows.height - table.height:
        notes.append(f"{refused} attempts got no reply and do not count.")
    ungraded = everything["correct"].null_count()
    if ungraded:
        notes.append(f"{ungraded} attempts could not be graded and do not count; a judge can grade more.")
    tables = {"attempts.jsonl": table.sort("id", "model", "sample")}
    return Prepared(replace(pool, index=rows), notes, tables)


async def _attempts(
    rows: pl.DataFrame,
    models: Sequence[Caller],
    judge: Caller | None,
    cache: CallCache,
    samples: int,
    progress: Watch,
) -> list[dict[str, Any]]:
    """Every attempt with its verdict; `model` is None for the teacher's."""
    made: dict[str, tuple[dict[str, Any], Attempt]] = {}
    for row in rows.iter_rows(named=True):
        if row["correct"] is None and row["attempt"]:
            attempt = Attempt(row["question"], row["attempt"], row["answer"])
            made[f"own\n{row['id']}"] = {"id": row["id"]}, attempt
    for model in models:
        tries = list(itertools.product(rows.iter_rows(named=True), range(samples)))
        calls = [model.request(row["question"], k) for row, k in tries]
        await map_calls(calls, model, cache, progress=progress)
        for (row, k), call in zip(tries, calls, strict=True):
            if reply := cache.get(call.key):
                about = {"id": row["id"], "model": model.name, "sample": k, "answer": reply.answer}
                attempt = Attempt(row["question"], reply.answer, row["answer"], reply.finish == "length")
                made[f"{model.name}\n{row['id']}\n{k}"] = about, attempt
    verdicts = await judge_all({n: a for n, (_, a) in made.items()}, judge, cache, progress=progress)
    return [{**about, "correct": verdicts[n].correct, "by": verdicts[n].by} for n, (about, _) in made.items()]


def name_domains(
    pool: Pool,
    classifier: Caller | None,
    cache: CallCache,
    *,
    domains: Mapping[str, str] | None = None,
    progress: Watch = no_watch,
) -> Prepared:
    """Fills in the `domain` of rows that have none, from `domains` (default: the MSC), and counts the domains.

    Raises BadInput when no row has a domain and there is no classifier.
    """
    rows = pool.index
    missing = rows.filter(pl.col("domain").is_null())
    if missing.height and classifier is not None:
        questions = dict(pool.gather_all(missing, ["question"]).iter_rows())
        found = asyncio.run(
            classify(questions, classifier, cache, domains or read_domains(), progress=progress)
        )
        names = pl.Series([found.get(i) for i in rows["id"]], dtype=pl.String)
        rows = rows.with_columns(domain=pl.coalesce("domain", names))
    elif missing.height == rows.height:
        raise BadInput("No row has a domain.", "Name a classifier with --model, or a column with --column.")
    notes = []
    without = rows["domain"].null_count()
    if without:
        notes.append(f"{without} rows have no domain; the selection draws them as one.")
    counts = rows["domain"].drop_nulls().value_counts(sort=True)
    largest = counts.sort(["count", "domain"], descending=[True, False]).head(5)
    listed = ", ".join(f"{name} {count}" for name, count in largest.iter_rows())
    notes.append(f"{counts.height} domains; the largest: {listed}.")
    return Prepared(replace(pool, index=rows), notes)
