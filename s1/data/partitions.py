"""The parts of a pool: texts in files or frames, and a light index that says where each row is.

A part is a piece of a Parquet file or a frame in memory; everything below treats both alike. The index has one
row for each row of the pool, sorted by id, with `id`, the columns that counts and draws need (`LIGHT`, and
solved_MODEL; where a part has them too, the index is right), and

| column            | meaning                                                                    |
|-------------------|----------------------------------------------------------------------------|
| `_part`, `_row`   | the part, and the place of the row in it                                   |
| `_key`            | hash of the normalised question; equal questions have equal keys           |
| `_trace`          | Polars' hash of the trace, null where there is none                        |
| `_digest`         | SHA-256 of the columns that are not in the index                           |
| `_characters`     | length of the trace in characters, null where there is none                |
| `_bytes`, `_question_bytes` | size of all texts, and of the question                           |
| `_answer`, `_attempt`       | whether the row has one                                          |
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import polars as pl

from s1.data.executor import Executor
from s1.data.validate_rows import pool_types
from s1.errors import Interrupted, first_line
from s1.jsonl import write_bytes
from s1.types import question_id
from s1.version import installed

T = TypeVar("T")
R = TypeVar("R")
WHITESPACE = r"[\s\x1c-\x1f]+"  # what str.split() splits on; \s leaves out the four separators here
OTHER_SPACES = r"[\t\x0b\x0c\r\x1c-\x1f\x85\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""Whitespace other than space and newline."""
TEXTS = ("question", "answer", "cot_type", "thinking", "attempt")
"""Columns that only the parts hold."""
LIGHT = ("source", "domain", "trace_by", "correct", "trace_tokens")
"""Columns that the index holds, besides the id and solved_MODEL."""
GATHER_BYTES = 1 << 28
"""Text that `Pool.gather` holds at once."""


class Part(NamedTuple):
    """Rows of a Parquet file whose columns are pool columns."""

    path: Path
    start: int
    rows: int


def no_reasons(rows: pl.DataFrame) -> pl.Series:
    """No reason to drop any of `rows`: a null for each."""
    return pl.Series("reason", [None] * rows.height, dtype=pl.String)


def normalised(text: pl.Expr) -> pl.Expr:
    """Lower case, with each run of whitespace collapsed to one space."""
    return text.str.to_lowercase().str.replace_all(WHITESPACE, " ").str.strip_chars(" ")


def spaces_only(texts: pl.Series) -> pl.Series:
    """Each character that str.split() splits on becomes a space, several times faster than one replacement."""
    spaced = texts.str.replace_all("\n", " ", literal=True)
    odd = spaced.str.contains(OTHER_SPACES)
    if odd.any():
        # Only in the few texts that need it: a conditional expression would replace in all of them.
        spaced = spaced.scatter(odd.arg_true(), spaced.filter(odd).str.replace_all(OTHER_SPACES, " "))
    return spaced


def index_part(rows: pl.DataFrame, part: int) -> pl.DataFrame:
    """The index of one part, before `pool._settle_ids`.

    A row without an id gets one from question and source, and a `_suffix` that tells its traces apart. `_file`
    and `_at` say where the row was read.
    """

    def have(name: str) -> pl.Expr:
        return pl.col(name) if name in rows.columns else pl.lit(None, types[name]).alias(name)

    types = pool_types(rows.columns)
    texts = [c for c in TEXTS if c in rows.columns]
    questions = rows.select(normalised(pl.col("question"))).to_series()
    keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in questions]
    digests = [hashlib.sha256(text.encode()).digest() for text in rows.select(_joined(texts)).to_series()]
    ids, suffixes = _ids(rows)
    return rows.select(
        pl.Series("id", ids, dtype=pl.String),
        *(have(c) for c in LIGHT),
        *(c for c in types if c.startswith("solved_")),
        pl.lit(part, pl.UInt32).alias("_part"),
        pl.int_range(pl.len(), dtype=pl.UInt32).alias("_row"),
        pl.Series("_key", keys, dtype=pl.Binary),
        pl.when(have("thinking").is_not_null()).then(have("thinking").hash()).alias("_trace"),
        pl.Series("_digest", digests, dtype=pl.Binary),
        have("thinking").str.len_chars().alias("_characters"),
        pl.sum_horizontal(pl.col(c).str.len_bytes() for c in texts).cast(pl.UInt32).alias("_bytes"),
        pl.col("question").str.len_bytes().alias("_question_bytes"),
        have("answer").is_not_null().alias("_answer"),
        have("attempt").is_not_null().alias("_attempt"),
        pl.Series("_suffix", suffixes, dtype=pl.String),
        *([pl.col("_file"), pl.col("_row").alias("_at")] if "_file" in rows.columns else ()),
    )


def _ids(rows: pl.DataFrame) -> tuple[list[str], list[str | None]]:
    """The id of each row, and the suffix of those that are derived here."""
    given: list[Any] = rows["id"].to_list() if "id" in rows.columns else [None] * rows.height
    if None not in given:
        return given, [None] * rows.height
    own = [c for c in ("thinking", "attempt", "trace_by") if c in rows.columns]
    marks = rows.select(pl.concat_str(own, ignore_nulls=True)).to_series() if own else [""] * rows.height
    ids: list[str] = []
    suffixes: list[str | None] = []
    for known, question, source, mark in zip(given, rows["question"], rows["source"], marks, strict=True):
        ids.append(question_id(question, source) if known is None else known)
        text = ids[-1] + (mark or "")
        suffixes.append(hashlib.sha256(text.encode()).hexdigest()[:8] if known is None else None)
    return ids, suffixes


def _joined(columns: Sequence[str]) -> pl.Expr:
    """One text for each row that differs when a value does. A null counts as an absent column."""
    parts: list[pl.Expr] = []
    for name in sorted(columns):
        text = pl.col(name).cast(pl.String)
        parts.append(pl.format("{} {} {}\n", pl.lit(name), text.str.len_bytes(), text).fill_null(""))
    return pl.concat_str(parts)


def by_bytes(rows: pl.DataFrame, size: str, *, whole: str | None = None) -> Iterator[pl.DataFrame]:
    """`rows` in pieces of about GATHER_BYTES; rows with the same value of `whole` stay together."""
    piece = (pl.col(size).cast(pl.Int64).cum_sum() - pl.col(size)) // GATHER_BYTES
    numbered = rows.with_columns(_piece=piece)
    if whole is not None:
        numbered = numbered.with_columns(pl.col("_piece").first().over(whole))
    yield from numbered.partition_by("_piece", maintain_order=True, include_key=False)


def load(part: Part | pl.DataFrame, rows: pl.DataFrame, columns: Sequence[str]) -> pl.DataFrame:
    """`columns` of some rows of a part: texts from the part (null where it lacks them), the rest from `rows`."""
    lazy = pl.scan_parquet(part.path).slice(part.start, part.rows) if isinstance(part, Part) else part.lazy()
    names = lazy.collect_schema().names()
    texts = [c for c in columns if c in TEXTS]
    frame = lazy.select([c for c in texts if c in names]).collect()
    if frame.width and not (rows.height == frame.height and rows["_row"].is_sorted()):
        frame = frame[rows["_row"]]
    nulls = [pl.Series(c, [None] * rows.height, dtype=pl.String) for c in texts if c not in names]
    found: dict[str, Any] = {s.name: s for s in [*frame.get_columns(), *nulls]}
    return rows.select("id", *(found.get(c, pl.col(c)) for c in columns if c != "id"))


def hash_index(index: pl.DataFrame) -> str:
    """SHA-256 of all values in the order of the ids: the same for the same rows in any order."""
    digest = hashlib.sha256()
    light = [c for c in pool_types(index.columns) if c not in TEXTS]
    for piece in index.sort("id").iter_slices(1 << 16):
        rows = zip(piece.select(_joined(light)).to_series(), piece["_digest"], strict=True)
        digest.update(b"".join(text.encode() + own for text, own in rows))
    return digest.hexdigest()


def hash_of(*values: Any) -> str:
    """A short hash of settings, frames and the versions of the libraries: the key of a kept result."""
    digest = hashlib.sha256(repr(versions()).encode())
    for value in values:
        if isinstance(value, pl.DataFrame):
            for text in value.select(_joined(value.columns)).to_series():
                digest.update(text.encode())
        else:
            digest.update(f"\n{value!r}".encode())
    return digest.hexdigest()[:16]


@functools.cache
def versions() -> dict[str, str]:
    """Python and the packages whose code decides which rows are chosen."""
    return installed(("s1", "polars", "numpy", "tokenizers"))


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Names the file or folder that cannot be written. Raises Interrupted, so that finished parts are kept."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        if isinstance(error, OSError) and error.errno is None and "os error" not in str(error):
            raise  # not of the system
        reason = getattr(error, "strerror", None) or first_line(error)
        raise Interrupted(
            f"{target} cannot be written: {reason}.", "Fix this, then rerun the command to resume."
        ) from error


def map_kept(
    executor: Executor, function: Callable[[T], R], items: Sequence[T], files: Sequence[Path] | None
) -> Iterator[R]:
    """`executor(function, items)`, with each result kept in its file: a result that is there already is only read."""
    if files is None:
        yield from executor(function, items)
        return
    found = [file.exists() for file in files]
    new = executor(function, [item for item, there in zip(items, found, strict=True) if not there])
    for file, there in zip(files, found, strict=True):
        if there:
            yield pickle.loads(file.read_bytes())
        else:
            result = next(new)
            write_bytes(file, pickle.dumps(result))
            yield result
