"""Files become the parts and the index of a pool, piece by piece and side by side.

With a work folder the parts lie on disk, and what each piece gave is kept:

    WORK/read-00003-KEY.pickle       index, rejects and parts of piece 3 (about PIECE_BYTES of text)
    WORK/read-00003-KEY-00.parquet   its good rows
    WORK/clean-00003-KEY.pickle      what a stage found in part 3 (see `Pool.map_rows`)

KEY is a hash of everything that decides the content, so after a kill the same command reuses what is finished
and nothing else. A Parquet file in pool columns that needs no repair is not copied: its parts are pieces of the
file itself. Without a work folder the parts are frames in memory. The pool of a single stage has its index next to it
(`store_index`): the next stage takes that, and reads the texts of the rows that it needs and no others.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from s1.data.difficulty import token_counter, tokenizer_file, with_trace_tokens
from s1.data.executor import Executor
from s1.data.partitions import Part, disk_errors, hash_of, index_part, map_kept
from s1.data.read_files import Split, file_kind, splits
from s1.data.validate_rows import Reader, Seen, checked_batches, pool_types, split_frames
from s1.errors import BadInput, Interrupted, S1Error
from s1.jsonl import write_bytes

PIECE_BYTES = 1 << 25
"""Text of a part. A stage holds a few of them at once."""
INDEX_FILE = "pool.index"
"""The index of pool.parquet in the same folder: a Parquet file in the order of its rows."""


class _Piece(NamedTuple):
    split: Split
    target: Path | None
    """Where its parts are written, without the suffix; None: they stay in memory."""


_PieceRows = tuple[list["Part | pl.DataFrame"], list[pl.DataFrame], Seen]
"""The parts of one piece of a file, the index of each, and what was rejected."""


def ingest(
    files: Sequence[Path],
    reader: Reader,
    executor: Executor,
    work: Path | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> tuple[list[Part | pl.DataFrame], list[pl.DataFrame], list[dict[str, Any]]]:
    """Parts, the index of each, and rejected rows.

    Raises BadInput when a file is unreadable or lacks a mapped column.
    """
    tokenizer = b""
    if reader.tokenizer:
        token_counter(reader.tokenizer)  # reports a wrong path before any work
        tokenizer = tokenizer_file(reader.tokenizer).read_bytes()
    key = hash_of(reader, tokenizer, piece_bytes)
    pieces: list[_Piece] = []
    kept: list[Path] = []
    parts: list[Part | pl.DataFrame] = []
    indexes: list[pl.DataFrame] = []
    for path in files:
        stored = _stored_index(path) if work is not None and reader == Reader() else None
        if stored is not None:
            starts = [split.first - 1 for split in splits(path, piece_bytes)]
            for start, stop in zip(starts, [*starts[1:], stored.height], strict=True):
                place = {
                    "_part": pl.lit(len(parts), pl.UInt32),
                    "_row": pl.int_range(pl.len(), dtype=pl.UInt32),
                }
                indexes.append(stored[start:stop].with_columns(**place))
                parts.append(Part(path, start, stop - start))
            continue
        for split in splits(path, piece_bytes):
            target = None
            if work is not None:
                state = path.resolve(), path.stat().st_size, path.stat().st_mtime_ns
                target = work / f"read-{len(pieces):05d}-{hash_of(key, state, split)}"
                kept.append(target.with_suffix(".pickle"))
            pieces.append(_Piece(split, target))
    if work is not None:
        work.mkdir(parents=True, exist_ok=True)
    read = partial(_read_piece, reader, piece_bytes)
    rejects: list[dict[str, Any]] = []
    names: dict[Path, set[str]] = {path: set() for path in files}
    results = map_kept(executor, read, pieces, kept if work is not None else None)
    for piece, (new_parts, new_indexes, seen) in zip(pieces, results, strict=True):
        for part, index in zip(new_parts, new_indexes, strict=True):
            indexes.append(index.with_columns(_part=pl.lit(len(parts), pl.UInt32)))
            parts.append(part)
        names[piece.split.path] |= seen.names
        rejects += seen.rejects
    for path in files:
        absent = [c for c in reader.mapping.values() if c and names[path] and c not in names[path]]
        if absent:
            raise BadInput(
                f"{path} has no column {absent[0]!r}; it has: {', '.join(sorted(names[path]))}.",
                "Correct the column mapping.",
            )
    return parts, indexes, rejects


def store_index(index: pl.DataFrame, pool_file: Path) -> None:
    """Writes the index of the rows of `pool_file`, in their order, into the same folder."""
    buffer = io.BytesIO()
    stamped = index.with_columns(_state=pl.lit(_state(pool_file)))
    stamped.write_parquet(buffer, compression="zstd", compression_level=1)
    write_bytes(pool_file.with_name(INDEX_FILE), buffer.getvalue())


def _stored_index(pool_file: Path) -> pl.DataFrame | None:
    """What `store_index` wrote, with the columns that `Pool` needs before its ids are settled.

    None where it is missing, cannot be read, or does not belong to the content that the pool file has now.
    """
    path = pool_file.with_name(INDEX_FILE)
    if not path.is_file():
        return None
    try:
        index = pl.read_parquet(io.BytesIO(path.read_bytes()))  # a path could be taken for a pattern
        if not index.height or index["_state"][0] != _state(pool_file):
            return None
    except (OSError, pl.exceptions.PolarsError):
        return None
    rows = pl.int_range(1, pl.len() + 1, dtype=pl.Int64)
    suffix = pl.lit(None, pl.String)
    return index.drop("_state").with_columns(_suffix=suffix, _file=pl.lit(str(pool_file)), _at=rows)


def _state(path: Path) -> str:
    """Changes with the content of the file, and with the version of what computes an index."""
    with path.open("rb") as file:
        return hash_of(hashlib.file_digest(file, "sha256").hexdigest())


def _read_piece(reader: Reader, piece_bytes: int, piece: _Piece) -> _PieceRows:
    count = token_counter(reader.tokenizer) if reader.tokenizer else None

    def measured(rows: pl.DataFrame) -> pl.DataFrame:
        return rows if count is None else with_trace_tokens(rows, count)

    found = _in_place(piece.split, reader, measured) if piece.target is not None else None
    return found or _copied(piece, reader, piece_bytes, measured)


def _in_place(
    split: Split, reader: Reader, measured: Callable[[pl.DataFrame], pl.DataFrame]
) -> _PieceRows | None:
    """The rows of a piece of Parquet where they lie in the file, or None where they must be copied."""
    if file_kind(split.path) != "parquet" or reader.mapping:
        return None
    schema = pl.read_parquet_schema(split.path)
    types = pool_types(list(schema))
    if any(types.get(c) != t for c, t in schema.items()) or not {"id", "source"} <= set(schema):
        return None
    seen, indexes, rows = Seen(), list[pl.DataFrame](), 0
    for batch, frames in checked_batches(split, reader, seen):
        if len(frames) != 1 or frames[0].height != batch.height or frames[0]["id"].null_count():
            return None
        if not frames[0].select(batch.columns).equals(batch):
            return None
        index = index_part(measured(frames[0]), 0)
        indexes.append(index.with_columns((pl.col("_row") + rows).cast(pl.UInt32)))
        rows += batch.height
    return ([Part(split.path, split.first - 1, rows)], [pl.concat(indexes)], seen) if rows else None


def _copied(
    piece: _Piece, reader: Reader, piece_bytes: int, measured: Callable[[pl.DataFrame], pl.DataFrame]
) -> _PieceRows:
    """The rows of a piece in pool columns, in new files or in memory."""
    parts, indexes, seen = list[Part | pl.DataFrame](), list[pl.DataFrame](), Seen()
    held: list[pl.DataFrame] = []

    def flush() -> None:
        rows = pl.concat(held, how="diagonal")
        held.clear()
        indexes.append(index_part(rows, 0))
        rows = rows.drop("_file", "_row")
        if piece.target is None:
            parts.append(rows)
            return
        path = piece.target.with_name(f"{piece.target.name}-{len(parts):02d}.parquet")
        with disk_errors(path):
            rows.write_parquet(path, compression="zstd", compression_level=1)
        parts.append(Part(path, 0, rows.height))

    for frame in split_frames(piece.split, reader, seen):
        held.append(measured(frame))
        if sum(f.estimated_size() for f in held) >= piece_bytes:
            flush()
    if held:
        flush()
    return parts, indexes, seen


@contextlib.contextmanager
def work_folder(out: Path | None) -> Iterator[Path]:
    """A folder beside `out` (`.OUT.work`) for intermediate results, removed when the block ends well.

    It also stays after a kill, a crash or an `Interrupted`, so that the same command can resume; any other
    S1Error removes it. Raises BadInput while another process holds it. Without `out`, a temporary folder.
    """
    import fcntl

    if out is None:
        with tempfile.TemporaryDirectory(prefix="s1-") as name:
            yield Path(name)
        return
    out = Path(os.path.abspath(out))
    work = out.with_name(f".{out.name}.work")
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BadInput(
                f"Another process is writing {out}.", "Wait until it ends, or name another folder."
            ) from None
        try:
            yield work
        except Interrupted:
            raise
        except S1Error:
            shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work)
