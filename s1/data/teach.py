"""Traces from a teacher: thinking and answer of a model that shows its thinking (section 2.1 of the paper)."""

from __future__ import annotations

import asyncio
import itertools
from typing import NamedTuple

import polars as pl

from s1.clients.call_cache import CallCache
from s1.clients.map_calls import Caller, Watch, check_samples, map_calls, no_watch
from s1.data.pool import Pool, pool_of_frame
from s1.data.validate_rows import REJECT_COLUMNS
from s1.errors import BadInput
from s1.formats import without_delimiters

BATCH = 2_000
"""Questions whose rows are held as Python objects, traces included, while the table is built."""


class Taught(NamedTuple):
    """A pool with a row for each trace, and what it cost."""

    pool: Pool
    tokens_in: int
    tokens_out: int
    usd: float


def teach(
    pool: Pool, teacher: Caller, cache: CallCache, *, samples: int = 1, progress: Watch = no_watch
) -> Taught:
    """`pool` with `thinking`, `attempt` and `trace_by` from the teacher, `samples` rows for each question.

    Further samples have the ids "ID-1", "ID-2", ...; columns that belong to an earlier trace are cleared. Rows without
    a reply join the rejects with the reason. Rows with the same question share one call.
    """
    check_samples(teacher, samples)
    questions = pool.rows
    calls = (teacher.request(q, k) for q in questions["question"] for k in range(samples))
    refused = asyncio.run(map_calls(calls, teacher, cache, progress=progress))
    frames, rejects = list[pl.DataFrame](), list[dict[str, object]]()
    costs: dict[str, tuple[int, int, float]] = {}
    for piece in questions.iter_slices(BATCH):
        rows = list[dict[str, object]]()
        for row, k in itertools.product(piece.iter_rows(named=True), range(samples)):
            key = teacher.request(row["question"], k).key
            reply = cache.get(key)
            number = f"{row['id']}-{k}" if k else row["id"]
            try:
                if reply is None or reply.finish == "content_filter":
                    raise BadInput(
                        refused.get(key, "the teacher's reply was filtered" if reply else "no reply")
                    )
                thinking, answer = without_delimiters(reply.thinking, reply.answer)
            except BadInput as why:
                rejected = {"id": number, "reason": why.message}
                rejects.append({**rejected, "source": row["source"], "question": row["question"]})
                continue
            costs[key] = reply.prompt_tokens, reply.completion_tokens, reply.usd
            new = {"id": number, "thinking": thinking, "attempt": answer}
            rows.append({**row, **new, "trace_by": teacher.name, "correct": None, "trace_tokens": None})
        frames.append(pl.DataFrame(rows, schema=questions.schema))
    all_rejects = pl.concat([pool.rejects, pl.DataFrame(rejects, REJECT_COLUMNS)])
    taught = pool_of_frame(pl.concat(frames), rejects=all_rejects, files=pool.files)
    totals = [sum(c[i] for c in costs.values()) for i in range(3)]
    return Taught(taught, int(totals[0]), int(totals[1]), float(totals[2]))
