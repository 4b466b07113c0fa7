"""The rows of a data file, one after the other; what cannot be read becomes a `BadRow` in its place.

JSONL, JSON and CSV (each also as .gz) and Parquet. A cut, damaged or mis-encoded file still gives the rows
that can be read. Rows count from 1; in JSONL they are lines. `rows_of` raises on the first bad row, for data
where every row counts; `raw_rows` leaves that to its caller. `splits` cuts Parquet and plain JSONL into pieces
that can be read side by side; the rest is read as a stream, save a JSON list, which is held in memory.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import itertools
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from s1.errors import BadInput, MissingExtra, first_line
from s1.terminal import valid_text

if TYPE_CHECKING:
    import polars as pl

MAX_ROW = 1 << 24
"""Most bytes of one row: a longer one is refused without being held in memory. The longest real row seen has 0.2
million. Every reader of data files has this limit."""
BATCH = 1_000
"""Rows held at once as Python objects."""
TOO_LONG = f"the row is longer than the limit of {MAX_ROW:,} bytes"
KINDS = (".parquet", ".jsonl", ".json", ".csv", ".jsonl.gz", ".json.gz", ".csv.gz")


class BadRow(Exception):
    """Why one row cannot be used, and in which field."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field, self.reason = field, reason


Rows = Iterator[tuple[int, dict[str, Any] | BadRow]]


def rows_of(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, numbered from 1. Raises BadInput naming the file and the first row that is unreadable."""
    for number, row in raw_rows(path):
        if isinstance(row, BadRow):
            raise BadInput(f"{path}, row {number}: {row.reason}.", "Correct or remove this row.")
        yield number, row


def raw_rows(path: Path) -> Rows:
    """The rows of a file, numbered from 1, or what is wrong with one. Raises BadInput for an unreadable file."""
    if file_kind(path) != "parquet":
        yield from split_rows(Split(path, 0, -1, 1))
        return
    for split in splits(path):
        for first, batch in parquet_batches(split):
            yield from enumerate(batch.iter_rows(named=True), first)


def data_files(path: Path) -> list[Path]:
    """`path`, or what a folder holds: the rows of an output folder, else every file of a known kind."""
    if not path.is_dir():
        return [path]
    for name in ("dataset.parquet", "pool.parquet"):
        if (path / name).is_file():
            return [path / name]
    found = sorted(f for f in path.iterdir() if f.name.endswith(KINDS))
    if not found:
        raise BadInput(f"{path} has no data file.", f"Known kinds: {', '.join(KINDS)}.")
    return found


class Split(NamedTuple):
    """A piece of a file: row groups of Parquet, bytes of plain JSONL, or (stop -1) all of it."""

    path: Path
    start: int
    stop: int
    first: int
    """Number of its first row or line in the file."""


def file_kind(path: Path) -> str:
    """ "jsonl", "json", "csv" or "parquet". Raises BadInput for a file that is missing or of another kind."""
    if not path.is_file():
        raise BadInput(f"{path}: no such file or folder.", "Check the path.")
    if valid_text(str(path)) != str(path):
        raise BadInput(f"{path}: the name is not valid UTF-8.", "Rename it.")
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1].lower()
    if kind not in ("jsonl", "json", "csv", "parquet"):
        raise BadInput(f"{path}: cannot tell the format.", f"Known kinds: {', '.join(KINDS)}.")
    return kind


def splits(path: Path, piece: int = 1 << 25) -> list[Split]:
    """The file as pieces of about `piece` bytes (of text, for Parquet)."""
    kind = file_kind(path)
    if kind == "parquet":
        return _row_groups(path, piece)
    if kind != "jsonl" or path.name.endswith(".gz") or path.stat().st_size <= piece:
        return [Split(path, 0, -1, 1)]
    found, at, first = [], 0, 1
    with path.open("rb") as file:
        while block := file.read(piece):
            size, lines = len(block), block.count(b"\n")
            while not block.endswith(b"\n") and (
                block := file.readline(MAX_ROW)
            ):  # the rest of its last line
                size, lines = size + len(block), lines + block.count(b"\n")
            found.append(Split(path, at, at + size, first))
            at, first = at + size, first + lines
    return found


def split_rows(split: Split) -> Rows:
    """The rows of a piece of JSONL, JSON or CSV."""
    kind = file_kind(split.path)
    if kind == "jsonl":
        return _jsonl_rows(split)
    return _json_rows(split.path) if kind == "json" else _csv_rows(split.path)


def _lines(
    path: Path, whole: bool = False, start: int = 0, end: float = math.inf
) -> Iterator[bytes | BadRow]:
    """The lines of a file from one byte to another; a damaged or truncated archive ends with one bad row.

    `whole`: all lines, of any length.
    """
    opener: Any = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "rb") as file:
        try:
            file.seek(start)
            yield from file if whole else _bounded(file, end)
        except (EOFError, OSError, zlib.error) as error:
            yield BadRow("", f"the file ends early or is damaged ({error})")


def _bounded(file: Any, end: float) -> Iterator[bytes | BadRow]:
    """The lines of a file up to byte `end`; one that is longer than a row may be is skipped and reported."""
    while file.tell() < end and (line := file.readline(MAX_ROW)):
        if len(line) < MAX_ROW or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_ROW)) and not rest.endswith(b"\n"):
            pass
        yield BadRow("", TOO_LONG)


def _jsonl_rows(split: Split) -> Rows:
    lines = _lines(split.path, start=split.start, end=math.inf if split.stop < 0 else split.stop)
    for number, line in enumerate(lines, split.first):
        if isinstance(line, BadRow):
            yield number, line
        elif line.strip():
            yield number, _parse(line)


def _parse(line: bytes) -> dict[str, Any] | BadRow:
    try:
        return _object(json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return BadRow("", f"not UTF-8 (byte {error.start + 1} of the line)")
    except (ValueError, RecursionError) as error:
        return BadRow("", f"not JSON, or cut short ({error})")


def _object(value: Any) -> dict[str, Any] | BadRow:
    if not isinstance(value, dict):
        return BadRow("", f"expected an object, found {value!r:.40}")
    return value if all(map(str.isascii, value)) else {valid_text(name): v for name, v in value.items()}


def _json_rows(path: Path) -> Rows:
    """A list of objects, or an object with one list in it. A cut list gives the objects before the cut."""
    blocks = list(_lines(path, whole=True))
    damage = next((b for b in blocks if isinstance(b, BadRow)), None)
    text = b"".join(b for b in blocks if isinstance(b, bytes)).decode("utf-8-sig", errors="surrogateescape")
    at = len(text) - len(text.lstrip())
    lists = []
    if text[at : at + 1] == "{":
        with contextlib.suppress(ValueError, RecursionError):
            lists = [v for v in json.loads(text).values() if isinstance(v, list)]
    if len(lists) == 1:
        yield from enumerate(map(_object, lists[0]), 1)
        return
    if text[at : at + 1] != "[":
        raise BadInput(
            f"{path}: expected a JSON list of objects.", "Name a file of one object a line .jsonl."
        )
    decoder, at = json.JSONDecoder(), at + 1
    for number in itertools.count(1):
        while text[at : at + 1] in (" ", "\t", "\r", "\n", ","):
            at += 1
        if text[at : at + 1] == "]":
            return
        start = at
        try:
            value, at = decoder.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            yield number, damage or BadRow("", f"not JSON, or cut short ({error})")
            return
        yield number, _object(value) if at - start <= MAX_ROW else BadRow("", TOO_LONG)


def _csv_rows(path: Path) -> Rows:
    damage: list[BadRow] = []

    def texts() -> Iterator[str]:
        for line in _lines(path):
            if isinstance(line, BadRow):
                damage.append(line)
                line = b"\n"  # holds its place
            yield line.decode("utf-8-sig", errors="surrogateescape")

    csv.field_size_limit(MAX_ROW)
    reader = csv.reader(texts())
    header = list(map(valid_text, next(reader, [])))
    for number in itertools.count(1):
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            yield number, BadRow("", f"not CSV ({error})")
            continue
        if damage:
            yield number, damage.pop()
        elif len(cells) != len(header):
            yield number, BadRow("", f"{len(cells)} cells, but the header has {len(header)}")
        else:
            yield number, {name: cell or None for name, cell in zip(header, cells, strict=True)}


def _row_groups(path: Path, piece: int) -> list[Split]:
    with _parquet(path) as file:
        found: list[Split] = []
        start = size = rows = before = 0
        for number in range(file.metadata.num_row_groups):
            group = file.metadata.row_group(number)
            if size and size + group.total_byte_size > piece:
                found.append(Split(path, start, number, before + 1))
                before, start, size, rows = before + rows, number, 0, 0
            size, rows = size + group.total_byte_size, rows + group.num_rows
        return [*found, Split(path, start, file.metadata.num_row_groups, before + 1)]


def parquet_batches(split: Split) -> Iterator[tuple[int, pl.DataFrame]]:
    """Rows of some row groups, BATCH at a time, each with the number of its first row.

    A column with strings that are not UTF-8 has the wrong bytes as surrogates, in Python objects.
    """
    import polars as pl
    import pyarrow as pa

    number = split.first
    with _parquet(split.path) as file:
        for batch in file.iter_batches(BATCH, row_groups=list(range(split.start, split.stop))):
            try:
                batch.validate(full=True)
                frame = pl.DataFrame(pl.from_arrow(batch))
            except pa.ArrowInvalid:
                frame = pl.DataFrame([_decoded(n, batch.column(n)) for n in batch.schema.names])
            yield number, frame
            number += batch.num_rows


def _decoded(name: str, column: Any) -> pl.Series:
    import polars as pl
    import pyarrow as pa

    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return pl.Series(name, pl.from_arrow(column))
    values = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    texts = [None if v is None else v.decode("utf-8", "surrogateescape") for v in values.to_pylist()]
    return pl.Series(name, texts, dtype=pl.Object)


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """An open Parquet file. Raises BadInput for one that cannot be read, MissingExtra without the libraries."""
    try:
        import polars as pl  # noqa: F401  (turns each batch into a frame)
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra(str(error.name), "data") from error
    try:
        # Buffered: without it a whole column of a row group is read at once.
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise BadInput(
            f"{path}: not a readable Parquet file ({first_line(error)}).", "Fetch or write the file again."
        ) from None
