"""Rows of a JSONL, JSON, CSV or Parquet file, gzipped or not, each with the number a person counts.

A row that cannot be read is a BadInput with file and row; none is ever skipped.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from s1.errors import BadInput, MissingExtra

Row = Mapping[str, Any]


def rows_of_file(path: Path) -> tuple[Iterator[tuple[int, Row]], str]:
    """Pairs of row number, from 1, and row; and the version: file name and hash of its bytes."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}.", "Give a file that exists.") from error
    version = f"{path.name}@{hashlib.sha256(content).hexdigest()[:12]}"
    name = path.name
    if name.endswith(".gz"):
        name = name[:-3]
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise BadInput(f"{path} is not a whole gzip file: {error}.", "Fetch it again.") from error
    suffix = Path(name).suffix
    if suffix == ".parquet":
        return enumerate(_parquet(path, content), 1), version
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}.get(suffix)
    if reader is None:
        raise BadInput(
            f"{path} is of no known format.", "Give .jsonl, .json, .csv or .parquet, with .gz or not."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 (byte {error.start}).", "Save it as UTF-8.") from error
    return reader(path, text), version


def _jsonl(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    # Not splitlines(): JSON strings may hold U+2028, which is a line end only there.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (json.JSONDecodeError, RecursionError) as error:
                raise BadInput(
                    f"{path}, row {number}: not valid JSON ({error}).", "Mend this line."
                ) from error


def _json(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}).", "One object a line is .jsonl.") from error
    if isinstance(data, Mapping):
        lists = [value for value in data.values() if isinstance(value, list)]
        data = lists[0] if len(lists) == 1 else data
    if not isinstance(data, list):
        raise BadInput(f"{path} holds no list of rows.", "Give a JSON list of objects.")
    yield from enumerate(data, 1)


def _csv(path: Path, text: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise BadInput(
                    f"{path}, row {number}: not as many fields as the header has.",
                    "Quote fields with commas.",
                )
            yield number, row
    except csv.Error as error:
        raise BadInput(f"{path}, line {reader.line_num}: {error}.", "Mend the quoting.") from error


def _parquet(path: Path, content: bytes) -> list[Row]:
    try:
        import polars
    except ImportError as error:
        raise MissingExtra("polars", "data") from error
    try:
        return cast(list[Row], polars.read_parquet(io.BytesIO(content)).to_dicts())
    except polars.exceptions.PolarsError as error:
        raise BadInput(f"{path} is not a Parquet file: {error}.", "Fetch it again.") from error
