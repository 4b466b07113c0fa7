"""Files become a pool out of core: checked piece by piece, side by side, into parts of a work folder.

    WORK/input.json          which files, mapping, settings and versions the folder is for
    WORK/read/00003-00.parquet   good rows of piece 3 (about PIECE_BYTES of text each)
    WORK/read/00003.index.parquet, .rejects.jsonl   its index and its rejected rows
    WORK/read/00003.json     what the piece gave; written last
    WORK/stages/...          what the stages found for each part (see `shards.map_rows`)

After a kill the same command finds what is done and goes on. Another input, mapping or version of the
libraries empties the folder. A Parquet file in pool columns with nothing to mend is not copied: its parts are
pieces of the file itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.data.executor import Executor, InProcess
from s1.data.partitions import Part, Shards, gathered, index_part, pool_types, settle_ids
from s1.data.pool import check_mapping, input_files, make_reader, no_usable_row, rejects_frame
from s1.data.read_files import Split, file_kind, splits
from s1.data.validate_rows import Reader, Seen, checked_batches, split_frames
from s1.errors import BadInput
from s1.jsonl import write_json

if TYPE_CHECKING:
    import polars as pl

PIECE_BYTES = 1 << 25
"""Text of a part. A stage holds a few of them at once."""


class _Piece(NamedTuple):
    number: int
    split: Split


@dataclass(frozen=True, slots=True)
class _Read:
    """The function that reads one piece; the executor sends it to where it runs."""

    folder: Path
    reader: Reader
    piece_bytes: int

    def __call__(self, piece: _Piece) -> None:
        done = self.folder / f"{piece.number:05d}.json"
        if done.exists():
            return
        seen = Seen()
        found = _in_place(piece.split, self.reader, seen)
        if found is None:
            seen = Seen()
            found = self._copied(piece, seen)
        parts, indexes = found
        _write_index(self.folder / f"{piece.number:05d}.index.parquet", indexes)
        with (self.folder / f"{piece.number:05d}.rejects.jsonl").open("w", encoding="utf-8") as file:
            for reject in seen.rejects:
                file.write(json.dumps(reject, ensure_ascii=False) + "\n")
        told = [[str(p.path), p.start, p.rows] for p in parts]
        write_json(done, {"parts": told, "names": sorted(map(str, seen.names))})

    def _copied(self, piece: _Piece, seen: Seen) -> tuple[list[Part], list[pl.DataFrame]]:
        import polars as pl

        parts: list[Part] = []
        indexes: list[pl.DataFrame] = []
        held: list[pl.DataFrame] = []

        def flush() -> None:
            rows = pl.concat(held, how="diagonal")
            path = self.folder / f"{piece.number:05d}-{len(parts):02d}.parquet"
            indexes.append(index_part(rows, len(parts)))
            rows.drop("_file", "_row").write_parquet(path, compression="zstd", compression_level=1)
            parts.append(Part(path, 0, rows.height))
            held.clear()

        for frame in split_frames(piece.split, self.reader, seen):
            held.append(frame)
            if sum(f.estimated_size() for f in held) >= self.piece_bytes:
                flush()
        if held:
            flush()
        return parts, indexes


def _in_place(split: Split, reader: Reader, seen: Seen) -> tuple[list[Part], list[pl.DataFrame]] | None:
    """The rows of a piece of Parquet as they lie in the file, or None where they must be written anew."""
    import polars as pl

    if file_kind(split.path) != "parquet" or reader.mapping:
        return None
    schema = pl.read_parquet_schema(split.path)
    types = pool_types(list(schema))
    if any(types.get(c) != t for c, t in schema.items()) or not {"id", "source"} <= set(schema):
        return None
    indexes: list[pl.DataFrame] = []
    rows = 0
    for batch, frames in checked_batches(split, reader, seen):
        if len(frames) != 1 or frames[0].height != batch.height or frames[0]["id"].null_count():
            return None
        if not frames[0].select(batch.columns).equals(batch):
            return None
        part = index_part(frames[0], 0)
        indexes.append(part.with_columns((pl.col("_row") + rows).cast(pl.UInt32)))
        rows += batch.height
    if not rows:
        return None
    return [Part(split.path, split.first - 1, rows)], [pl.concat(indexes)]


def _write_index(path: Path, indexes: Sequence[pl.DataFrame]) -> None:
    import polars as pl

    if indexes:
        pl.concat(indexes, how="diagonal").write_parquet(path, compression="lz4")


def read_shards(
    paths: str | Path | Sequence[str | Path],
    columns: Mapping[str, str] | None = None,
    *,
    work: Path,
    executor: Executor | None = None,
    piece_bytes: int = PIECE_BYTES,
) -> Shards:
    """The rows of files or folders as a pool out of core, in the folder `work` (see `work_folder`).

    Accepts, rejects and names the same rows as `read_pool`, with the same ids.
    Raises BadInput when a file cannot be opened or no row is usable.
    """
    import polars as pl

    files, reader = input_files(paths), make_reader(columns)
    read = work / "read"
    work.mkdir(parents=True, exist_ok=True)
    _keep_if_same(work, _identity(files, reader, piece_bytes))
    read.mkdir(parents=True, exist_ok=True)
    pieces: list[_Piece] = []
    for path in files:
        pieces += [_Piece(len(pieces) + n, s) for n, s in enumerate(splits(path, piece_bytes))]
    executor = executor or InProcess()
    for _ in executor.map(_Read(read, reader, piece_bytes), pieces):
        pass
    parts: list[Part] = []
    indexes: list[pl.DataFrame] = []
    rejects: list[dict[str, Any]] = []
    names: dict[Path, set[str]] = {path: set() for path in files}
    for number, split in pieces:
        done = json.loads((read / f"{number:05d}.json").read_text(encoding="utf-8"))
        names[split.path].update(done["names"])
        if done["parts"]:
            index = pl.read_parquet(read / f"{number:05d}.index.parquet")
            indexes.append(index.with_columns((pl.col("_shard") + len(parts)).cast(pl.UInt32)))
            parts += [Part(Path(path), start, rows) for path, start, rows in done["parts"]]
        with (read / f"{number:05d}.rejects.jsonl").open(encoding="utf-8") as file:
            rejects += map(json.loads, file)
    for path in files:
        check_mapping(path, reader, names[path])
    if not indexes:
        raise no_usable_row(files, rejects)
    index = pl.concat(indexes, how="diagonal")
    del indexes

    def texts(rows: pl.DataFrame) -> pl.DataFrame:
        return gathered(Shards(index, parts, rejects_frame()), rows)

    settled, repeated = settle_ids(index, texts)
    stages = work / "stages"
    stages.mkdir(exist_ok=True)
    all_rejects = rejects_frame([*rejects, *repeated])
    return Shards(settled, parts, all_rejects, tuple(map(str, files)), executor, stages)


def _identity(files: Sequence[Path], reader: Reader, piece_bytes: int) -> dict[str, Any]:
    from s1.data.ledger import versions

    def state(path: Path) -> list[Any]:
        found = path.stat()
        return [str(path.resolve()), found.st_size, found.st_mtime_ns]

    for path in files:
        file_kind(path)  # says so where it is not there
    return {
        "schema": 1,
        "files": [state(f) for f in files],
        "columns": dict(reader.mapping),
        "piece_bytes": piece_bytes,
        "versions": versions(),
    }


def _keep_if_same(work: Path, identity: dict[str, Any]) -> None:
    """Empties the work folder unless it is for this input."""
    note = work / "input.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None
    if known != identity:
        for name in ("read", "stages"):
            shutil.rmtree(work / name, ignore_errors=True)
        write_json(note, identity)


@contextlib.contextmanager
def work_folder(out: Path | None) -> Iterator[Path]:
    """A folder beside `out` (`.OUT.work`) for what a command writes on the way; gone when the block ends well.

    It stays after a kill or a crash, so that the same command goes on; not after an error of the user's.
    Raises BadInput while another process has it. Without `out`, a temporary folder.
    """
    import fcntl

    from s1.errors import S1Error

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
                f"{out} is being written by another process.", "Wait for it, or name another folder."
            ) from None
        try:
            yield work
        except S1Error as error:
            if not error.hint.endswith("goes on from here."):
                shutil.rmtree(work, ignore_errors=True)
            raise
        shutil.rmtree(work)
