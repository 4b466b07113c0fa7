"""Training pairs from a dataset: the output of `s1 curate`, s1K, or any file with a question and a trace.

Besides the pool columns, a row may have `untrained`: a list of [start, end], in characters of its trace, that
the model sees but is not trained on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from s1.data.pool import read_pool
from s1.data.read_files import BadRow, data_files, file_kind, raw_rows
from s1.data.validate_rows import guess_columns
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
    spans = {key: found for file in data_files(Path(path)) for key, found in _untrained(file)}
    traces = as_traces(pool.rows)
    for question, _ in spans.keys() - {(t.question.text, t.thinking) for t in traces}:
        raise BadInput(
            f"The question {question!r:.60} has `untrained`, but its trace held delimiters and was split at them.",
            "Take the delimiters out of the trace, and count the places anew.",
        )
    return [replace(t, untrained=spans.get((t.question.text, t.thinking), ())) for t in traces]


def _untrained(file: Path) -> Iterator[tuple[tuple[str, str], tuple[tuple[int, int], ...]]]:
    """The parts without loss of the rows that have any, by question and trace."""
    if file_kind(file) == "parquet" and "untrained" not in pl.read_parquet_schema(file):
        return
    for number, row in raw_rows(file):
        if isinstance(row, BadRow) or row.get("untrained") in (None, "", []):
            continue
        names = guess_columns(tuple(row))
        question, thinking = (row.get(names.get(field, "")) for field in ("question", "thinking"))
        if isinstance(question, str) and isinstance(thinking, str):
            yield (question, thinking), _spans(row["untrained"], file, number)


def _spans(value: Any, file: Path, number: int) -> tuple[tuple[int, int], ...]:
    # The type of True is not int.
    good = isinstance(value, list) and all(
        isinstance(part, list) and [type(place) for place in part] == [int, int] for part in value
    )
    if not good:
        raise BadInput(
            f"{file}, row {number}, untrained: expected a list of [start, end], found {value!r:.60}.",
            "Give two whole numbers for each part: where it starts and ends in the trace, in characters.",
        )
    return tuple((start, end) for start, end in value)


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
