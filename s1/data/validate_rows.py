"""Rows of a file become rows of a pool: checked one by one, or whole columns at once where they are plain.

The row check decides what is accepted and says why not. The column check takes the rows of a frame that need
no closer look, and leaves the others to the row check, so both ways give the same rows and the same rejects.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s1.data.read_files import BATCH, BadRow, Rows, Split, file_kind, named_rows, parquet_batches, split_rows

if TYPE_CHECKING:
    import polars as pl

TEXT_COLUMNS = ("id", "question", "answer", "source", "domain", "cot_type", "thinking", "attempt", "trace_by")
REJECT_COLUMNS = ("id", "source", "file", "row", "field", "reason", "question")
ALIASES: Mapping[str, tuple[str, ...]] = {
    "id": ("id", "question_hash", "unique_id"),
    "question": ("question", "problem", "query"),
    "answer": ("answer", "solution", "gold", "final_answer", "Short Answer"),
    "source": ("source", "source_type"),
    "domain": ("domain", "subject"),
    "cot_type": ("cot_type",),
    "thinking": (
        "thinking",
        "deepseek_thinking_trajectory",
        "gemini_thinking_trajectory",
        "thinking_trajectories",
        "trace",
    ),
    "attempt": ("attempt",),
    "trace_by": ("trace_by", "model"),
    "correct": ("correct", "grade", "score"),
    "trace_tokens": ("trace_tokens",),
}
MAX_CHARACTERS = 4_000_000
"""Longest text of one field. The longest real trace at hand has 0.15 million characters."""
BATCH_CHARACTERS = 1 << 25
"""A batch of rows ends once it has so many characters."""
KEEP_BLANK = ("thinking", "attempt", "question")
"""Fields whose "" is not null: an empty trace and a missing one are different defects."""


@dataclass(frozen=True, slots=True)
class Reader:
    """How rows are read: {pool column: file column} over the guess, and the longest text of a field."""

    mapping: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_characters: int = MAX_CHARACTERS


@dataclass(slots=True)
class Seen:
    """What reading noted beside the rows: rejected rows, and the names of the columns that occurred."""

    rejects: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)


def split_frames(split: Split, reader: Reader, seen: Seen) -> Iterator[pl.DataFrame]:
    """The good rows of a piece of a file in pool types, batch by batch, with `_file` and `_row`."""
    file, stem = str(split.path), split.path.name.split(".")[0]
    if file_kind(split.path) != "parquet":
        yield from row_frames(split_rows(split), file, stem, reader, seen)
        return
    for _, frames in checked_batches(split, reader, seen):
        yield from frames


def checked_batches(
    split: Split, reader: Reader, seen: Seen
) -> Iterator[tuple[pl.DataFrame, list[pl.DataFrame]]]:
    """Batches of a piece of Parquet as they stand, each with its good rows."""
    file, stem = str(split.path), split.path.name.split(".")[0]
    for first, batch in parquet_batches(split):
        yield batch, list(_batch_frames(batch, first, file, stem, reader, seen))


def row_frames(rows: Rows, file: str, stem: str, reader: Reader, seen: Seen) -> Iterator[pl.DataFrame]:
    """The good ones of `rows`, checked one by one."""
    layouts: dict[tuple[str, ...], dict[str, str]] = {}
    batch: list[dict[str, Any]] = []
    characters = 0
    for number, raw in rows:
        try:
            if isinstance(raw, BadRow):
                raise raw
            names = tuple(raw)
            if names not in layouts:
                seen.names.update(names)
                layouts[names] = _layout(names, reader)
            row = _plain_row(raw, layouts[names], reader.max_characters)
        except BadRow as bad:
            given = raw.get("id") if isinstance(raw, dict) else None
            given = None if given is None else str(given).encode(errors="replace").decode()
            values = (given, stem, file, number, bad.field, bad.reason, None)
            seen.rejects.append(dict(zip(REJECT_COLUMNS, values, strict=True)))
            continue
        row["source"] = row.get("source") or stem
        batch.append({**row, "_file": file, "_row": number})
        characters += len(row["question"]) + len(row.get("thinking") or "")
        if len(batch) == BATCH or characters >= BATCH_CHARACTERS:
            yield _frame(batch)
            batch, characters = [], 0
    if batch:
        yield _frame(batch)


def _batch_frames(
    batch: pl.DataFrame, first: int, file: str, stem: str, reader: Reader, seen: Seen
) -> Iterator[pl.DataFrame]:
    import polars as pl

    seen.names.update(batch.columns)
    layout = _layout(batch.columns, reader)
    checks = {f: _column(f, c, batch.schema[c], reader.max_characters) for f, c in layout.items()}
    checks |= {c: _share(c, batch.schema[c]) for c in batch.columns if c.startswith("solved_")}
    if "question" not in layout:
        checks["question"] = pl.lit(None, pl.String), pl.lit(False)
    good = batch.select(pl.all_horizontal(g.fill_null(False) for _, g in checks.values()).alias("g"))["g"]
    if len(good) < batch.height:  # no column at all, or constants only
        good = pl.Series("g", [bool(len(good) and good[0])] * batch.height)
    source = checks.get("source", (pl.lit(None, pl.String), None))[0]
    plain = (
        batch.select(
            *(value.alias(name) for name, (value, _) in checks.items() if name != "source"),
            source.fill_null(stem).alias("source"),
            pl.lit(file).alias("_file"),
            pl.int_range(first, first + batch.height).alias("_row"),
        )
        if batch.width
        else pl.DataFrame()
    ).filter(good)
    if plain.height:
        yield plain.select(sorted(plain.columns))
    if plain.height < batch.height:
        odd = batch.with_row_index("_at", offset=first).filter(~good)
        rows = zip(odd["_at"].to_list(), named_rows(odd.drop("_at")), strict=True)
        yield from row_frames(rows, file, stem, reader, seen)


def _layout(names: Sequence[str], reader: Reader) -> dict[str, str]:
    return {f: c for f, c in {**guess_columns(names), **reader.mapping}.items() if c}


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Which column of a file holds which pool column, by the names that known files use."""
    found = {field: next((n for n in known if n in names), "") for field, known in ALIASES.items()}
    if found["thinking"] == "trace" and not found["attempt"] and "answer" in names:
        # A trace dump: "answer" is what the model replied, not the reference.
        found["attempt"] = "answer"
        found["answer"] = next((n for n in ALIASES["answer"] if n != "answer" and n in names), "")
    teacher = found["thinking"].removesuffix("_thinking_trajectory")
    if teacher != found["thinking"]:
        for field in ("attempt", "grade"):
            if f"{teacher}_{field}" in names:
                found["correct" if field == "grade" else field] = f"{teacher}_{field}"
    if not found["trace_tokens"]:
        found["trace_tokens"] = next((n for n in names if n.startswith("trace_tokens")), "")
    return {field: name for field, name in found.items() if name}


def _column(field: str, column: str, dtype: Any, limit: int) -> tuple[pl.Expr, pl.Expr]:
    """The value of a field, and whether it is plainly good; the rows where it is not are looked at singly."""
    import polars as pl

    raw = pl.col(column)
    if field == "correct":
        return _graded(raw, dtype)
    if field == "trace_tokens":
        if dtype.is_integer() or dtype == pl.Null:
            count = raw.cast(pl.Int64, strict=False)
            return count, raw.is_null() | (count >= 0)
        return pl.lit(None, pl.Int64), raw.is_null()
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        value = good = raw.cast(pl.String)
    elif dtype == pl.List(pl.String) and field in ("thinking", "answer"):
        if field == "thinking":  # s1K keeps a list with one trace
            value = raw.list.eval(pl.element().filter(pl.element() != "")).list.first().fill_null("")
        else:
            value = raw.list.join(", ", ignore_nulls=False)
        value = pl.when(raw.is_not_null()).then(value)
    else:
        return pl.lit(None, pl.String), raw.is_null() if field != "question" else pl.lit(False)
    good = raw.is_null() | (value.str.len_chars() <= limit)
    if field == "question":
        good = good & value.str.contains(r"[^\s\x1c-\x1f]")
    elif field not in KEEP_BLANK and dtype != pl.List(pl.String):
        value = pl.when(value != "").then(value)
    return value, good


def _graded(raw: pl.Expr, dtype: Any) -> tuple[pl.Expr, pl.Expr]:
    import polars as pl

    if dtype in (pl.Boolean, pl.Null):
        return raw.cast(pl.Boolean), pl.lit(True)
    if dtype.is_integer() or dtype.is_float():
        number = raw.cast(pl.Float64).fill_nan(None)
        return number >= 1, pl.lit(True)
    if dtype == pl.String:
        word = raw.str.strip_chars().str.to_lowercase()
        right, wrong = word.is_in(["yes", "true"]), word.is_in(["no", "false"])
        plain = raw.is_null() | right | wrong | word.is_in(["none", "null"]) | (raw == "")
        return pl.when(right).then(True).when(wrong).then(False), plain
    return pl.lit(None, pl.Boolean), raw.is_null()


def _share(column: str, dtype: Any) -> tuple[pl.Expr, pl.Expr]:
    import polars as pl

    raw = pl.col(column)
    if dtype == pl.Null or dtype == pl.Boolean or dtype.is_integer() or dtype.is_float():
        number = raw.cast(pl.Float64).fill_nan(None)
        return number, number.is_null() | number.is_between(0, 1)
    return pl.lit(None, pl.Float64), raw.is_null()


def _frame(batch: list[dict[str, Any]]) -> pl.DataFrame:
    import polars as pl

    types: dict[str, Any] = {c: pl.String for c in (*TEXT_COLUMNS, "_file")}
    types |= {"correct": pl.Boolean, "trace_tokens": pl.Int64, "_row": pl.Int64}
    names = sorted({name for row in batch for name in row})
    return pl.DataFrame(
        {n: pl.Series(n, [row.get(n) for row in batch], dtype=types.get(n, pl.Float64)) for n in names}
    )


def _plain_row(raw: dict[str, Any], layout: Mapping[str, str], limit: int) -> dict[str, Any]:
    """One row in pool types. Raises BadRow."""
    row: dict[str, Any] = {}
    for field, column in layout.items():
        row[field] = _value(field, raw.get(column), limit, column)
    for column, value in raw.items():
        if column.startswith("solved_"):
            row[column] = share = _number(value, column)
            if share is not None and not 0 <= share <= 1:
                raise BadRow(column, f"expected a share between 0 and 1, found {value!r:.60}")
    if "question" not in layout:
        raise BadRow("question", f"no question column (columns: {', '.join(map(str, raw))})"[:300])
    if row["question"] is None or not row["question"].strip():
        raise BadRow(layout["question"], "the question is null or blank")
    return row


def _value(field: str, value: Any, limit: int, column: str) -> Any:
    if value is None or (value == "" and field not in ("thinking", "attempt", "question")):
        return None
    if field == "correct":
        return _verdict(value, column)
    if field == "trace_tokens":
        number = _number(value, column)
        if number is None or number < 0 or not number.is_integer():
            raise BadRow(column, f"expected a count of tokens, found {value!r:.60}")
        return int(number)
    if field == "thinking" and isinstance(value, list):
        value = next((v for v in value if v), "")  # s1K keeps a list with one trace
    elif field == "answer" and isinstance(value, list):
        value = ", ".join(map(str, value))
    elif field in ("id", "answer", "attempt") and isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise BadRow(column, f"expected text, found {type(value).__name__} {value!r:.60}")
    if len(value) > limit:
        raise BadRow(column, f"{len(value)} characters, more than the limit of {limit}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(column, "not valid UTF-8") from None
    return value


def _verdict(value: Any, column: str) -> bool | None:
    """Yes/No words, booleans, or a score of which only 1 counts as right."""
    if isinstance(value, str):
        words = {"yes": True, "true": True, "no": False, "false": False, "none": None, "null": None}
        if value.strip().lower() in words:
            return words[value.strip().lower()]
    number = _number(value, column)
    return None if number is None else number >= 1


def _number(value: Any, column: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
        return None if number != number else number
    except (TypeError, ValueError, OverflowError):
        raise BadRow(column, f"expected a number, found {value!r:.60}") from None
