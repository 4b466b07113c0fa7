"""Training pairs from a dataset: the output of `s1 curate`, s1K, or any file with a question and a trace."""

from __future__ import annotations

import random
from pathlib import Path

import polars as pl

from s1.data.pool import read_pool
from s1.errors import BadInput
from s1.types import Question, Trace


def read_traces(path: str | Path) -> list[Trace]:
    """The training pairs of a file or folder. Raises BadInput naming a row without a trace or an answer."""
    pool = read_pool(path)
    if pool.rejects.height:
        first = pool.rejects.row(0, named=True)
        raise BadInput(
            f"{first['file']}, row {first['row']}, {first['field']}: {first['reason']}.",
            "Correct or drop the row; s1 curate drops such rows.",
        )
    return as_traces(pool.rows)


def as_traces(rows: pl.DataFrame) -> list[Trace]:
    """Pool rows as training pairs, in an order that depends on their ids alone."""
    traces = []
    for row in rows.sort("id").iter_rows(named=True):
        for field in ("thinking", "attempt"):
            if not (row[field] or "").strip():
                raise BadInput(f"Row {row['id']} has no {field}.", "Drop such rows with s1 curate.")
        question = Question(row["id"], row["question"], row["answer"], row["source"])
        traces.append(Trace(question, row["thinking"], row["attempt"], row["trace_by"] or ""))
    random.Random(0).shuffle(traces)
    return traces
