"""A pool: questions with a teacher's traces, one row each, read from files and checked.

| column          | type    | meaning                                                                     |
|-----------------|---------|-----------------------------------------------------------------------------|
| `id`            | str     | unique in the pool; derived from question, source and trace where missing    |
| `question`      | str     | never blank                                                                  |
| `answer`        | str?    | reference answer or solution                                                 |
| `source`        | str     | data set it came from; the file's stem where the file does not say           |
| `domain`        | str?    | subject, for the diversity draw                                              |
| `cot_type`      | str?    | kind of task as in s1K ("math", "science", "crossword")                      |
| `thinking`      | str?    | the trace, without delimiters                                                |
| `attempt`       | str?    | the teacher's final answer after the trace                                   |
| `trace_by`      | str?    | the teacher                                                                  |
| `correct`       | bool?   | whether the attempt is right; null where nobody graded it                    |
| `trace_tokens`  | int?    | length of `thinking` in tokens of a named tokenizer                          |
| `solved_MODEL`  | float?  | share of MODEL's attempts that were right; any number of such columns        |

`read_pool` takes JSONL, JSON, CSV (each also as .gz) and Parquet. It knows the columns of s1K and s1K-1.1,
of trace dumps (`trace`, `answer`, `score`, `model`) and of usual benchmark files; a mapping {pool column:
file column} overrides, and {"id": ""} leaves a column of the file unread. A row that cannot be used goes to
`Pool.rejects` with its file, row (lines and records count from 1), field and reason; the others are kept,
sorted by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.data.partitions import Shards, gathered, index_part, pool_types, settle_ids
from s1.data.read_files import Rows, data_files, splits
from s1.data.validate_rows import (
    ALIASES,
    MAX_CHARACTERS,
    REJECT_COLUMNS,
    Reader,
    Seen,
    guess_columns,
    row_frames,
    split_frames,
)
from s1.errors import BadInput

if TYPE_CHECKING:
    import polars as pl

__all__ = ["REJECT_COLUMNS", "Pool", "conform", "guess_columns", "join_pools", "pool_of_rows", "read_pool"]


@dataclass(frozen=True, slots=True)
class Pool:
    """Good rows (columns as in the module's table) and the rejected ones (REJECT_COLUMNS)."""

    rows: pl.DataFrame
    rejects: pl.DataFrame
    files: tuple[str, ...] = ()


def read_pool(
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    *,
    max_characters: int = MAX_CHARACTERS,
) -> Pool:
    """The rows of files or folders. Raises BadInput when a file cannot be opened or no row is usable."""
    files, reader = input_files(paths), make_reader(columns, max_characters)
    frames: list[pl.DataFrame] = []
    rejects: list[dict[str, Any]] = []
    for path in files:
        seen = Seen(rejects)
        for split in splits(path):
            frames += split_frames(split, reader, seen)
        check_mapping(path, reader, seen.names)
    if not frames:
        raise no_usable_row(files, rejects)
    return _settled(frames, rejects, tuple(map(str, files)))


def input_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files that some files and folders stand for."""
    return [f for p in ([paths] if isinstance(paths, (str, Path)) else paths) for f in data_files(Path(p))]


def make_reader(columns: Mapping[str, str] | None, max_characters: int = MAX_CHARACTERS) -> Reader:
    """How to read files under a column mapping. Raises BadInput for a column that no pool has."""
    unknown = sorted(set(columns or {}) - set(ALIASES))
    if unknown:
        raise BadInput(
            f"Column mapping: {unknown[0]!r} is no pool column.", f"Pool columns are: {', '.join(ALIASES)}."
        )
    return Reader(dict(columns or {}), max_characters)


def check_mapping(path: Path, reader: Reader, names: Iterable[str]) -> None:
    """Raises BadInput when the mapping names a column that the file has nowhere."""
    seen = sorted(names)
    absent = [c for c in reader.mapping.values() if c and seen and c not in seen]
    if absent:
        raise BadInput(
            f"{path} has no column {absent[0]!r}; it has: {', '.join(seen)}.", "Mend the column mapping."
        )


def no_usable_row(files: Sequence[Path], rejects: Sequence[Mapping[str, Any]]) -> BadInput:
    """What to raise when nothing could be read."""
    why = "the files are empty"
    if rejects:
        why = "first reason: {file}, row {row}: {reason}".format(**rejects[0])
    return BadInput(
        f"No usable row in {', '.join(map(str, files)) or 'an empty list of files'} ({why}).",
        "A pool needs at least a question in each row; see the column mapping.",
    )


def pool_of_rows(rows: Rows, name: str, *, max_characters: int = MAX_CHARACTERS) -> Pool:
    """A pool from rows at hand whose keys are pool columns; `name` stands for the file in rejects.

    Raises BadInput when no row is usable.
    """
    seen = Seen()
    frames = list(row_frames(rows, name, name, Reader({}, max_characters), seen))
    if not frames:
        why = "it is empty"
        if seen.rejects:
            why = "first reason: row {row}: {reason}".format(**seen.rejects[0])
        raise BadInput(f"No usable row in {name} ({why}).", "Check its columns and filter.")
    return _settled(frames, seen.rejects, (name,))


def join_pools(pools: Sequence[Pool]) -> Pool:
    """Several pools as one. Of rows with the same id one stays and the others are rejected."""
    import polars as pl

    frames = [p.rows.with_columns(_file=pl.col("source"), _row=pl.lit(None, pl.Int64)) for p in pools]
    pool = _settled(frames, (), tuple(f for p in pools for f in p.files))
    return Pool(pool.rows, pl.concat([*(p.rejects for p in pools), pool.rejects]), pool.files)


def _settled(
    frames: list[pl.DataFrame], rejects: Sequence[Mapping[str, Any]], files: tuple[str, ...]
) -> Pool:
    """The pool of some frames of good rows, one row for each id."""
    import polars as pl

    index = pl.concat([index_part(f, n) for n, f in enumerate(frames)], how="diagonal")

    def texts(rows: pl.DataFrame) -> pl.DataFrame:
        return gathered(Shards(index, frames, rejects_frame()), rows)

    settled, repeated = settle_ids(index, texts)
    shards = Shards(settled, frames, rejects_frame())
    return Pool(conform(gathered(shards, settled)), rejects_frame([*rejects, *repeated]), files)


def rejects_frame(rejects: Sequence[Mapping[str, Any]] = ()) -> pl.DataFrame:
    """Rejected rows as a frame with REJECT_COLUMNS; what a row does not say is null."""
    import polars as pl

    return pl.DataFrame(
        {
            c: pl.Series(c, [r.get(c) for r in rejects], dtype=pl.Int64 if c == "row" else pl.String)
            for c in REJECT_COLUMNS
        }
    )


def conform(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with every pool column in its type and order, missing ones null, sorted by id.

    Raises BadInput naming the column or row that a pool cannot have.
    """
    import polars as pl

    types = pool_types(rows.columns)
    for needed in ("id", "question"):
        if needed not in rows.columns:
            raise BadInput(f"The pool has no column {needed!r}; it has: {', '.join(rows.columns)}.")
    try:
        rows = rows.select(
            pl.col(c).cast(t) if c in rows.columns else pl.lit(None, dtype=t).alias(c)
            for c, t in types.items()
        ).with_columns(pl.col("source").fill_null(""))
    except pl.exceptions.PolarsError as error:
        raise BadInput(f"The pool has a column of the wrong type: {str(error).splitlines()[0]}") from None
    if rows["id"].null_count() or rows["id"].is_duplicated().any():
        raise BadInput("The pool has rows without an id, or with the same id.", "Give each row its own id.")
    return rows.sort("id")
