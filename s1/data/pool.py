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
of trace dumps (`trace`, `answer`, `score`, `model`) and of common benchmark files; a mapping {pool column:
file column} overrides, and {"id": ""} leaves a column of the file unread. A row that cannot be used goes to
`Pool.rejects` with its file, row (lines and records count from 1), field and reason; the others are kept.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from s1.data.executor import Executor
from s1.data.ingest import PIECE_BYTES, ingest
from s1.data.partitions import TEXTS, Part, by_bytes, hash_of, index_part, load, map_kept
from s1.data.read_files import Rows, data_files
from s1.data.validate_rows import ALIASES, REJECT_COLUMNS, Reader, Seen, pool_types, row_frames
from s1.errors import BadInput, first_line

if TYPE_CHECKING:
    FrameFunction = Callable[[pl.DataFrame], pl.DataFrame]

FRAME_ROWS = 8192
"""Rows of a part of a pool that was made from a frame."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The good rows, by their index and parts (see `partitions`), and the rejected ones (REJECT_COLUMNS)."""

    index: pl.DataFrame
    """One light row for each row, sorted by id."""
    parts: Sequence[Part | pl.DataFrame]
    rejects: pl.DataFrame
    files: tuple[str, ...] = ()
    executor: Executor = map
    work: Path | None = None
    """Folder that keeps what was found in each part, so that a killed command can resume."""

    @property
    def rows(self) -> pl.DataFrame:
        """Every row with all pool columns, in memory; gathered anew each time."""
        return self.gather_all(self.index)

    def gather(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The rows named by `rows` (of the index), in that order, in pieces of about GATHER_BYTES.

        `columns` limits the columns, of which `id` always comes first; without it, all pool columns.
        """
        names = list(pool_types(rows.columns)) if columns is None else ["id", *columns]
        size = "_question_bytes" if columns == ["question"] else "_bytes"
        keep = {*names, "_part", "_row", size} - set(TEXTS)
        for piece in by_bytes(rows.select(c for c in rows.columns if c in keep), size):
            found = []
            for (number,), group in (
                piece.with_row_index("_order").partition_by("_part", as_dict=True).items()
            ):
                part = self.parts[number]
                taken = load(part, group, [*names, "_order"])
                # A few rows of a part would keep all of its texts in memory.
                few = isinstance(part, Part) and 4 * len(taken) < part.rows
                found.append(pickle.loads(pickle.dumps(taken)) if few else taken)
            yield pl.concat(found).sort("_order").select(names)

    def gather_all(self, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """`gather` in one frame."""
        types = pool_types(rows.columns)
        names = list(types) if columns is None else ["id", *columns]
        return pl.concat([pl.DataFrame(schema={n: types[n] for n in names}), *self.gather(rows, columns)])

    def map_rows(
        self, rows: pl.DataFrame, columns: Sequence[str], function: FrameFunction, *, name: str, key: str = ""
    ) -> pl.DataFrame:
        """What `function` gives for the rows of each part that are in `rows` (of the index), part after part.

        It gets `id` and `columns` and runs on the executor, so it must be pure and picklable. With a work
        folder, results are kept under `name` and a hash of the rows and of `key`: whatever else decides them.
        """
        light = [c for c in columns if c not in (*TEXTS, "id")]
        content = pl.col("_digest").bin.encode("hex")
        wanted = rows.select("id", "_part", "_row", content, *light).sort("_part", "_row")
        groups = wanted.partition_by("_part", as_dict=True, include_key=False)
        tasks = [(self.parts[n], group.drop("_digest")) for (n,), group in groups.items()]
        files = None
        if self.work is not None:
            files = [
                self.work / f"{name}-{n:05d}-{hash_of(name, key, g)}.pickle" for (n,), g in groups.items()
            ]
        work = partial(_on_part, function, tuple(columns))
        return pl.concat(map_kept(self.executor, work, tasks, files), rechunk=True)


def _on_part(
    function: FrameFunction, columns: Sequence[str], task: tuple[Part | pl.DataFrame, pl.DataFrame]
) -> pl.DataFrame:
    part, rows = task
    return function(load(part, rows, columns))


def read_pool(
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    *,
    tokenizer: str | Path | None = None,
    work: Path | None = None,
    executor: Executor = map,
    piece_bytes: int = PIECE_BYTES,
) -> Pool:
    """The rows of files or folders.

    `tokenizer` (a tokenizer.json or its folder) measures each trace in tokens. With a folder `work` (see
    `ingest.work_folder`) texts stay on disk, so the pool may be larger than memory; the rows, ids and rejects
    are the same either way. Raises BadInput when a file cannot be opened, a mapped column is missing, or no row
    is usable.
    """
    unknown = sorted(set(columns or {}) - set(ALIASES))
    if unknown:
        raise BadInput(
            f"Column mapping: {unknown[0]!r} is not a pool column.", f"Pool columns: {', '.join(ALIASES)}."
        )
    files = [f for p in ([paths] if isinstance(paths, (str, Path)) else paths) for f in data_files(Path(p))]
    reader = Reader(dict(columns or {}), str(tokenizer or ""))
    found = ingest(files, reader, executor, work, piece_bytes)
    return replace(_settled(*found, tuple(map(str, files))), executor=executor, work=work)


def pool_of_rows(rows: Rows, name: str) -> Pool:
    """A pool from rows whose keys are pool columns; rejects name `name` as their file.

    Raises BadInput when no row is usable.
    """
    seen = Seen()
    frames = list(row_frames(rows, name, name, Reader(), seen))
    return _settled(frames, [index_part(f, n) for n, f in enumerate(frames)], seen.rejects, (name,))


def _settled(
    parts: Sequence[Part | pl.DataFrame],
    indexes: Sequence[pl.DataFrame],
    rejects: Sequence[dict[str, Any]],
    files: tuple[str, ...],
) -> Pool:
    """A pool with one row for each id. Raises BadInput when no row is usable."""
    if not indexes:
        why = "it is empty"
        if rejects:
            why = "first reason: {file}, row {row}: {reason}".format(**rejects[0])
        raise BadInput(
            f"No usable row in {', '.join(files) or 'an empty list of files'} ({why}).",
            "Each row needs at least a question. Check the column mapping and the filter.",
        )
    index = pl.concat(indexes, how="diagonal")
    return _settle_ids(Pool(index, parts, pl.DataFrame(rejects, REJECT_COLUMNS), files))


def _settle_ids(pool: Pool) -> Pool:
    """The pool with one row for each id, its index sorted by id, and the other rows among the rejects.

    A derived id that several rows share gets the suffix of each trace. Which of several rows with the same id
    stays does not depend on their order: the first by question, thinking, attempt, answer, teacher, place.
    """
    again = pl.col("_suffix").is_not_null() & pl.col("id").is_duplicated()
    longer = pl.concat_str("id", pl.lit("-"), "_suffix")
    index = pool.index.with_columns(id=pl.when(again).then(longer).otherwise("id")).drop("_suffix").sort("id")
    repeated = index.filter(pl.col("id").is_duplicated())
    rejects, place = [pool.rejects], ["_file", "_at"]
    if repeated.height:
        firsts = [index.filter(pl.col("id").is_unique())]
        order = ["question", "thinking", "attempt", "answer", "trace_by"]
        for group in by_bytes(repeated, "_bytes", whole="id"):
            full = group.drop("trace_by").hstack(pool.gather_all(group, order).drop("id"))
            full = full.sort(["id", *order, *place], nulls_last=True)
            full = full.with_columns(_times=pl.len().over("id"))
            first = full["id"].is_first_distinct()
            firsts.append(full.filter(first).select(index.columns))
            reason = pl.concat_str(pl.lit("the id appears "), "_times", pl.lit(" times; one row was kept"))
            what: dict[str, Any] = {"file": "_file", "row": "_at", "field": pl.lit("id"), "reason": reason}
            rejects.append(full.filter(~first).select("id", "source", "question", **what))
        index = pl.concat(firsts).sort("id")
    return replace(pool, index=index.drop(place), rejects=pl.concat(rejects, how="diagonal"))


def pool_of_frame(
    rows: pl.DataFrame, *, rejects: pl.DataFrame | None = None, files: tuple[str, ...] = ()
) -> Pool:
    """A pool from a frame with pool columns. Raises BadInput naming the column or row that is not allowed."""
    rows = conform(rows)
    parts = [rows.slice(at, FRAME_ROWS) for at in range(0, max(rows.height, 1), FRAME_ROWS)]
    index = pl.concat(index_part(part, number) for number, part in enumerate(parts))
    rejects = pl.DataFrame(schema=REJECT_COLUMNS) if rejects is None else rejects
    return Pool(index.drop("_suffix"), parts, rejects, files)


def join_pools(pools: Sequence[Pool]) -> Pool:
    """Several pools in memory as one. Of rows with the same id one stays and the others are rejected."""
    frames = [p.rows.with_columns(_file=pl.col("source"), _row=pl.lit(None, pl.Int64)) for p in pools]
    rejects = [reject for p in pools for reject in p.rejects.to_dicts()]
    files = tuple(file for p in pools for file in p.files)
    return _settled(frames, [index_part(f, n) for n, f in enumerate(frames)], rejects, files)


def conform(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` with every pool column in its type and order, missing ones null, sorted by id.

    Raises BadInput naming the column or row that is not allowed.
    """
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
        raise BadInput(f"The pool has a column of the wrong type: {first_line(error)}") from None
    if rows["id"].null_count() or rows["id"].is_duplicated().any():
        raise BadInput("The pool has rows without an id, or with the same id.", "Give each row its own id.")
    return rows.sort("id")
