"""A pool out of core: texts in parts on disk, and a light index in memory that says where each row lies.

A part is a piece of a Parquet file, or a frame where the pool came in memory; both take the same way. The
index has a row for each row of the pool, sorted by id: `id`, the columns that counts and draws need (source,
domain, trace_by, correct, trace_tokens, solved_MODEL; for these the index is right, whatever the part says), and

| column            | meaning                                                                    |
|-------------------|----------------------------------------------------------------------------|
| `_shard`, `_row`  | part and place in it                                                       |
| `_key`            | hash of the normalised question; equal questions have equal keys           |
| `_trace`          | hash of the trace, null where there is none                                |
| `_digest`         | SHA-256 of the columns that are not in the index                            |
| `_characters`     | length of the trace in characters, null where there is none                |
| `_bytes`, `_question_bytes` | size of all texts, and of the question                           |
| `_answer`, `_attempt`       | whether the row has one                                          |

`map_rows` runs a pure function over the parts, by any executor; `gather` brings chosen rows back in order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.data.executor import Executor, InProcess
from s1.data.validate_rows import TEXT_COLUMNS
from s1.types import question_id

if TYPE_CHECKING:
    import polars as pl

    Function = Callable[[pl.DataFrame], pl.DataFrame]

WHITESPACE = r"[\s\x1c-\x1f]+"  # what str.split() splits on; the four separators are not in \s here
OTHER_SPACES = r"[\t\x0b\x0c\r\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""One of them that is no space and no line end."""
TEXTS = ("question", "answer", "cot_type", "thinking", "attempt")
"""Columns that lie in the parts alone."""
GATHER_BYTES = 1 << 28
"""Text that `gather` holds at once."""
MEMORY_ROWS = 8192
"""Rows of a part of a pool in memory."""


class Part(NamedTuple):
    """Rows of a Parquet file in pool columns."""

    path: Path
    start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Shards:
    """A pool by its index; `rejects` and `files` as in `Pool`. `store` keeps what parts gave, for a restart."""

    index: pl.DataFrame
    parts: Sequence[Part | pl.DataFrame]
    rejects: pl.DataFrame
    files: tuple[str, ...] = ()
    executor: Executor = field(default_factory=InProcess)
    store: Path | None = None


def pool_types(columns: Sequence[str]) -> dict[str, Any]:
    """The type of every pool column, and of the `solved_` columns among `columns`, in order."""
    import polars as pl

    types: dict[str, Any] = {c: pl.String for c in TEXT_COLUMNS}
    types |= {"correct": pl.Boolean, "trace_tokens": pl.Int64}
    return types | {c: pl.Float64 for c in sorted(columns) if c.startswith("solved_")}


def normalised(text: pl.Expr) -> pl.Expr:
    """Lower case, whitespace collapsed to one space."""
    return text.str.to_lowercase().str.replace_all(WHITESPACE, " ").str.strip_chars(" ")


def spaces_only(texts: pl.Series) -> pl.Series:
    """Each character that str.split() splits on becomes a space. Several times faster than one replacement."""

    spaced = texts.str.replace_all("\n", " ", literal=True)
    odd = spaced.str.contains(OTHER_SPACES)
    if odd.any():
        # Of few texts: a mask of the whole column would have the replacement made in all.
        spaced = spaced.scatter(odd.arg_true(), spaced.filter(odd).str.replace_all(OTHER_SPACES, " "))
    return spaced


def index_part(rows: pl.DataFrame, shard: int) -> pl.DataFrame:
    """The index of one part (columns as above), before ids are settled.

    A row without an id gets one of question and source; `_suffix` then tells several traces of it apart.
    `_file` and `_at` say where a row was read, where `rows` has them as `_file` and `_row`.
    """
    import polars as pl

    def have(name: str) -> pl.Expr:
        return pl.col(name) if name in rows.columns else pl.lit(None, types[name]).alias(name)

    types = pool_types(rows.columns)
    texts = [c for c in TEXTS if c in rows.columns]
    keys = rows.select(normalised(pl.col("question")))["question"]
    traces = rows["thinking"] if "thinking" in rows.columns else [None] * rows.height
    given = rows["id"] if "id" in rows.columns else pl.Series([None] * rows.height, dtype=pl.String)
    ids: list[Any] = given.to_list()
    suffixes: list[str | None] = [None] * rows.height
    if given.null_count():
        sources = rows["source"].to_list()
        own = [c for c in ("thinking", "attempt", "trace_by") if c in rows.columns]
        marks = rows.select(pl.concat_str(own, ignore_nulls=True)).to_series() if own else [""] * rows.height
        triples = zip(ids, rows["question"], sources, strict=True)
        derived = [question_id(q, s) if i is None else i for i, q, s in triples]
        suffixes = [
            hashlib.sha256((d + (m or "")).encode()).hexdigest()[:8] if i is None else None
            for i, d, m in zip(ids, derived, marks, strict=True)
        ]
        ids = derived
    number = pl.int_range(pl.len(), dtype=pl.UInt32)
    return rows.select(
        pl.Series("id", ids, dtype=pl.String),
        *(have(c) for c in types if c in ("source", "domain", "trace_by", "correct", "trace_tokens")),
        *(c for c in types if c.startswith("solved_")),
        pl.lit(shard, pl.UInt32).alias("_shard"),
        number.alias("_row"),
        pl.Series("_key", [_hash(k) for k in keys], dtype=pl.Binary),
        pl.Series("_trace", [None if t is None else _hash(t) for t in traces], dtype=pl.Binary),
        pl.Series("_digest", _digests(rows, texts), dtype=pl.Binary),
        have("thinking").str.len_chars().alias("_characters"),
        pl.sum_horizontal(pl.col(c).str.len_bytes() for c in texts).cast(pl.UInt32).alias("_bytes"),
        pl.col("question").str.len_bytes().alias("_question_bytes"),
        have("answer").is_not_null().alias("_answer"),
        have("attempt").is_not_null().alias("_attempt"),
        pl.Series("_suffix", suffixes, dtype=pl.String),
        *([pl.col("_file"), pl.col("_row").alias("_at")] if "_file" in rows.columns else ()),
    )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _digests(rows: pl.DataFrame, columns: Sequence[str]) -> list[bytes]:
    return [hashlib.sha256(text.encode()).digest() for text in rows.select(_joined(columns)).to_series()]


def _joined(columns: Sequence[str]) -> pl.Expr:
    """One text for each row that differs when a value does. A null is as if the column were not there."""
    import polars as pl

    parts: list[pl.Expr] = []
    for name in sorted(columns):
        text = pl.col(name).cast(pl.String)
        parts.append(pl.format("{} {} {}\n", pl.lit(name), text.str.len_bytes(), text).fill_null(""))
    return pl.concat_str(parts)


def settle_ids(
    index: pl.DataFrame, texts: Callable[[pl.DataFrame], pl.DataFrame]
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """The index with one row for each id, sorted by id, and the other rows as rejects.

    Derived ids that several rows share get the suffix of their trace. Which of several rows with one id stays
    does not depend on their order: the first by question, thinking, attempt, answer, teacher, place.
    `texts` gives the columns of that order for some rows of the index, in the same order.
    """
    import polars as pl

    again = pl.col("_suffix").is_not_null() & pl.col("id").is_duplicated()
    longer = pl.concat_str("id", pl.lit("-"), "_suffix")
    index = index.with_columns(id=pl.when(again).then(longer).otherwise("id")).drop("_suffix").sort("id")
    repeated = index.filter(pl.col("id").is_duplicated())
    rejects: list[dict[str, Any]] = []
    place = [c for c in ("_file", "_at") if c in index.columns]
    if repeated.height:
        index = index.filter(pl.col("id").is_unique())
        firsts = [index]
        order = ["question", "thinking", "attempt", "answer", "trace_by"]
        for group in _by_bytes(repeated, "_bytes"):
            full = group.drop("trace_by").hstack(texts(group).select(order))
            full = full.sort(["id", *order, *place], nulls_last=True)
            full = full.with_columns(_times=pl.len().over("id"))
            first = full["id"].is_first_distinct()
            firsts.append(full.filter(first).select(index.columns))
            reason = pl.concat_str(pl.lit("the id appears "), "_times", pl.lit(" times; one row was kept"))
            where = {"file": "_file", "row": "_at"} if place else {}
            bad = full.filter(~first).select(
                "id", "source", "question", field=pl.lit("id"), reason=reason, **where
            )
            rejects += bad.to_dicts()
        index = pl.concat(firsts).sort("id")
    return index.drop(place), rejects


def _by_bytes(rows: pl.DataFrame, size: str, whole: str | None = "id") -> Iterator[pl.DataFrame]:
    """`rows` in pieces of about GATHER_BYTES; rows with the same `whole` stay together."""
    import polars as pl

    piece = (pl.col(size).cast(pl.Int64).cum_sum() - pl.col(size)) // GATHER_BYTES
    numbered = rows.with_columns(_piece=piece)
    if whole is not None:
        numbered = numbered.with_columns(pl.col("_piece").first().over(whole))
    yield from numbered.partition_by("_piece", maintain_order=True, include_key=False)


class _Task(NamedTuple):
    part: Part | pl.DataFrame
    rows: pl.DataFrame


def map_rows(
    shards: Shards,
    rows: pl.DataFrame,
    columns: Sequence[str],
    function: Function,
    *,
    name: str,
    key: str = "",
) -> Iterator[pl.DataFrame]:
    """What `function` gives for the rows of each part that are in `rows` (of the index), part by part.

    It gets `id` and `columns`, and is run by the executor, so it must be pure and picklable. Results are kept
    in the store under `name` and a hash of `key` (whatever decides the outcome) and of what the index says.
    """
    import polars as pl

    light = [c for c in columns if c not in (*TEXTS, "id")]
    wanted = rows.select("id", "_shard", "_row", *light).sort("_shard", "_row")
    groups = wanted.partition_by("_shard", as_dict=True, include_key=False)
    tasks = {int(number): _Task(shards.parts[number], g) for (number,), g in groups.items()}
    work = partial(_on_part, function, tuple(columns))
    if shards.store is None:
        yield from shards.executor.map(work, list(tasks.values()))
        return
    files = {n: shards.store / f"{name}-{n:05d}-{_task_key(t, name, key)}.parquet" for n, t in tasks.items()}
    missing = [n for n in tasks if not files[n].exists()]
    results = shards.executor.map(work, [tasks[n] for n in missing])
    for number in tasks:
        if number in missing:
            result = next(results)
            part = files[number].with_suffix(".part")
            result.write_parquet(part)
            part.replace(files[number])
            yield result
        else:
            yield pl.read_parquet(files[number])


def _task_key(task: _Task, name: str, key: str) -> str:
    digest = hashlib.sha256(f"{name}\n{key}\n".encode())
    for text in task.rows.select(_joined(task.rows.columns)).to_series():
        digest.update(text.encode())
    return digest.hexdigest()[:16]


def _on_part(function: Function, columns: Sequence[str], task: _Task) -> pl.DataFrame:
    return function(load(task.part, task.rows, columns))


def load(part: Part | pl.DataFrame, rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """Some rows of a part: `id` and what else the index rows have, and texts; one that the part lacks is null."""
    import polars as pl

    lazy = pl.scan_parquet(part.path).slice(part.start, part.rows) if isinstance(part, Part) else part.lazy()
    names = lazy.collect_schema().names()
    texts = [c for c in columns if c in TEXTS]
    frame = lazy.select([c for c in texts if c in names]).collect()
    if frame.width and not (rows.height == frame.height and rows["_row"].is_sorted()):
        frame = frame[rows["_row"]]
    nulls = [pl.Series(c, [None] * rows.height, dtype=pl.String) for c in texts if c not in names]
    found: dict[str, Any] = {s.name: s for s in [*frame.get_columns(), *nulls]}
    return rows.select(
        "id",
        *(found.get(c, pl.col(c)) for c in columns if c != "id"),
    )


def gather(
    shards: Shards, rows: pl.DataFrame, columns: Sequence[str] | None = None
) -> Iterator[pl.DataFrame]:
    """The rows of the pool named by `rows` (of the index), in that order, in pieces of about GATHER_BYTES.

    `columns`: only these; without, all pool columns. `id` always comes first.
    """
    import polars as pl

    names = list(pool_types(rows.columns)) if columns is None else ["id", *columns]
    size = "_question_bytes" if columns == ["question"] else "_bytes"
    keep = {*names, "_shard", "_row", size} - set(TEXTS)
    places = rows.select(c for c in rows.columns if c in keep)
    for piece in _by_bytes(places, size, None):
        found = []
        for (number,), group in piece.with_row_index("_order").partition_by("_shard", as_dict=True).items():
            part = shards.parts[number]
            taken = load(part, group, [*names, "_order"])
            found.append(_copied(taken) if isinstance(part, Part) and 4 * len(taken) < part.rows else taken)
        yield pl.concat(found).sort("_order").select(names)


def _copied(rows: pl.DataFrame) -> pl.DataFrame:
    """The same rows alone: few rows of a part keep all its texts in memory until they are copied."""
    import io

    import polars as pl

    buffer = io.BytesIO()
    rows.write_ipc(buffer, compat_level=pl.CompatLevel.oldest())
    buffer.seek(0)
    return pl.read_ipc(buffer)


def gathered(shards: Shards, rows: pl.DataFrame, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """As `gather`, in one frame."""
    import polars as pl

    types = pool_types(rows.columns)
    names = list(types) if columns is None else ["id", *columns]
    return pl.concat([pl.DataFrame(schema={n: types[n] for n in names}), *gather(shards, rows, columns)])


def memory_shards(rows: pl.DataFrame, rejects: pl.DataFrame, files: tuple[str, ...] = ()) -> Shards:
    """A pool in memory (conformed rows) as shards, worked on in this process."""
    import polars as pl

    parts = [rows.slice(at, MEMORY_ROWS) for at in range(0, max(rows.height, 1), MEMORY_ROWS)]
    index = pl.concat(index_part(part, number) for number, part in enumerate(parts))
    return Shards(index.drop("_suffix").sort("id"), parts, rejects, files)


def hash_index(index: pl.DataFrame) -> str:
    """SHA-256 of all values in the order of the ids: the same for the same rows in any order."""
    digest = hashlib.sha256()
    light = [c for c in pool_types(index.columns) if c not in TEXTS]
    for piece in index.sort("id").iter_slices(1 << 16):
        rows = zip(piece.select(_joined(light)).to_series(), piece["_digest"], strict=True)
        digest.update(b"".join(text.encode() + own for text, own in rows))
    return digest.hexdigest()


def key_of(*values: Any) -> str:
    """A text that differs when settings, frames or versions differ; see `map_rows`."""
    import polars as pl

    def text(value: Any) -> str:
        if isinstance(value, pl.DataFrame):
            return hashlib.sha256(value.write_ndjson().encode()).hexdigest()
        return repr(value)

    return "\n".join([f"polars {pl.__version__}", *map(text, values)])
