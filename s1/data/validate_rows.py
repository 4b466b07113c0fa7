"""Rows of a file become rows of a pool: checked one by one, or a batch at once where all its rows are plain.

The row check decides what is accepted and says why not. The batch check is there for speed: it takes a batch of
Parquet in which no row needs a closer look, and gives the rows that the row check would give.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from s1.clients.chat_replies import message_texts
from s1.data.read_files import BATCH, MAX_ROW, BadRow, Rows, Split, file_kind, parquet_batches, split_rows
from s1.errors import BadInput
from s1.formats import DELIMITERS, without_delimiters

TEXT_COLUMNS = ("id", "question", "answer", "source", "domain", "cot_type", "thinking", "attempt", "trace_by")
REJECT_COLUMNS: Mapping[str, Any] = {
    "id": pl.String, "source": pl.String, "file": pl.String, "row": pl.Int64, "field": pl.String,
    "reason": pl.String, "question": pl.String,
}  # fmt: skip
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
CHATS = ("messages", "conversations", "conversation")
"""Columns with a list of messages: {role, content} or {from, value}."""
ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant"}
MAX_CHARACTERS = MAX_ROW // 4
"""Longest text of one field. The longest real trace seen has 0.15 million characters."""
BATCH_CHARACTERS = 1 << 25
"""A batch of rows ends once it has this many characters."""
KEEP_BLANK = ("thinking", "attempt", "question")
"""Fields whose "" is not null: an empty trace and a missing one are different defects."""
VERDICTS = {"yes": True, "true": True, "no": False, "false": False, "none": None, "null": None}


@dataclass(frozen=True, slots=True)
class Reader:
    """How files are read: {pool column: file column} over the guess, and the tokenizer that measures traces."""

    mapping: Mapping[str, str] = dataclasses.field(default_factory=dict)
    tokenizer: str = ""


@dataclass(slots=True)
class Seen:
    """What reading noted besides the rows: rejected rows, and the names of the columns that occurred."""

    rejects: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    names: set[str] = dataclasses.field(default_factory=set)


def split_frames(split: Split, reader: Reader, seen: Seen) -> Iterator[pl.DataFrame]:
    """The good rows of a piece of a file in pool types, batch by batch, with `_file` and `_row`."""
    if file_kind(split.path) != "parquet":
        yield from row_frames(split_rows(split), str(split.path), file_stem(split.path), reader, seen)
        return
    for _, frames in checked_batches(split, reader, seen):
        yield from frames


def checked_batches(
    split: Split, reader: Reader, seen: Seen
) -> Iterator[tuple[pl.DataFrame, list[pl.DataFrame]]]:
    """Batches of a piece of Parquet as they are in the file, each with its good rows."""
    file, stem = str(split.path), file_stem(split.path)
    for first, batch in parquet_batches(split):
        seen.names.update(batch.columns)
        plain = _plain_batch(batch, _layout(batch.columns, reader))
        if plain is None:
            rows = enumerate(batch.iter_rows(named=True), first)
            yield batch, list(row_frames(rows, file, stem, reader, seen))
            continue
        source = pl.col("source").fill_null(stem) if "source" in plain.columns else pl.lit(stem)
        place = pl.lit(file).alias("_file"), pl.int_range(first, first + batch.height).alias("_row")
        plain = plain.with_columns(source.alias("source"), *place)
        yield batch, [plain.select(sorted(plain.columns))]


def file_stem(path: Path) -> str:
    """The name of a file without its endings."""
    return path.name.split(".")[0]


def _plain_batch(batch: pl.DataFrame, layout: Mapping[str, str]) -> pl.DataFrame | None:
    """The rows of a batch in pool types, or None where one of them needs a closer look."""
    columns = {**layout, **{name: name for name in batch.columns if name.startswith("solved_")}}
    if "question" not in layout or not {*columns.values()} <= {*batch.columns}:
        return None
    if "thinking" not in layout and not {*CHATS}.isdisjoint(batch.columns):
        return None
    values: list[pl.Expr] = []
    rules = [pl.col(layout["question"]).is_not_null()]
    for field, name in columns.items():
        raw, dtype = pl.col(name), batch.schema[name]
        if field in TEXT_COLUMNS:
            if dtype not in (pl.String, pl.Null):
                return None
            raw = raw.cast(pl.String)
            rules.append(raw.str.len_chars() <= MAX_CHARACTERS)
            if field in ("thinking", "attempt"):
                rules.append(~raw.str.contains_any(list(DELIMITERS), ascii_case_insensitive=True))
            if field == "question":
                rules.append(raw.str.contains(r"[^\s\x1c-\x1f]"))
            values.append((raw if field in KEEP_BLANK else pl.when(raw != "").then(raw)).alias(field))
        elif field == "trace_tokens":
            if not (dtype.is_integer() or dtype == pl.Null):
                return None
            values.append(raw.cast(pl.Int64, strict=False).alias(field))
            rules.append(raw.is_null() | (raw.cast(pl.Int64, strict=False) >= 0).fill_null(False))
        else:
            if not (dtype in (pl.Boolean, pl.Null) or dtype.is_integer() or dtype.is_float()):
                return None
            number = raw.cast(pl.Float64).fill_nan(None)
            values.append((number >= 1 if field == "correct" else number).alias(field))
            if field != "correct":
                rules.append(number.is_between(0, 1))
    good = batch.select(pl.all_horizontal(rule.fill_null(True) for rule in rules).all()).item()
    return batch.select(values) if good else None


def row_frames(rows: Rows, file: str, stem: str, reader: Reader, seen: Seen) -> Iterator[pl.DataFrame]:
    """The good ones of `rows`, checked one by one; `stem` is the source of rows that do not say theirs."""
    layouts: dict[tuple[str, ...], dict[str, str]] = {}
    batch: list[dict[str, Any]] = []
    characters = 0
    for number, raw in rows:
        try:
            if isinstance(raw, BadRow):
                raise raw
            names = tuple(raw)
            if names not in layouts:
                seen.names.update(map(str, names))
                layouts[names] = _layout(names, reader)
            row = _plain_row(raw, layouts[names])
        except BadRow as bad:
            given = raw.get("id") if isinstance(raw, dict) else None
            given = None if given is None else str(given).encode(errors="replace").decode()
            place = {"id": given, "source": stem, "file": file, "row": number}
            seen.rejects.append({**place, "field": bad.field, "reason": bad.reason})
            continue
        row["source"] = row.get("source") or stem
        batch.append({**row, "_file": file, "_row": number})
        characters += len(row["question"]) + len(row.get("thinking") or "")
        if len(batch) == BATCH or characters >= BATCH_CHARACTERS:
            yield _frame(batch)
            batch, characters = [], 0
    if batch:
        yield _frame(batch)


def _layout(names: Sequence[str], reader: Reader) -> dict[str, str]:
    return {f: c for f, c in {**guess_columns(names), **reader.mapping}.items() if c}


def guess_columns(names: Sequence[str]) -> dict[str, str]:
    """Which column of a file holds which pool column, by the names that known files use.

    The question is found in any letter case.
    """
    found = {field: next((n for n in known if n in names), "") for field, known in ALIASES.items()}
    if not found["question"]:
        lower = {str(n).lower(): n for n in reversed(names)}
        found["question"] = next((lower[n] for n in ALIASES["question"] if n in lower), "")
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


def _frame(batch: list[dict[str, Any]]) -> pl.DataFrame:
    names = sorted({name for row in batch for name in row})
    types = {**pool_types(names), "_file": pl.String, "_row": pl.Int64}
    return pl.DataFrame({n: pl.Series(n, [row.get(n) for row in batch], dtype=types[n]) for n in names})


def pool_types(columns: Sequence[str]) -> dict[str, Any]:
    """The type of every pool column, and of the `solved_` columns among `columns`, in order."""
    types: dict[str, Any] = {c: pl.String for c in TEXT_COLUMNS}
    types |= {"correct": pl.Boolean, "trace_tokens": pl.Int64}
    return types | {c: pl.Float64 for c in sorted(columns) if c.startswith("solved_")}


def _plain_row(raw: dict[str, Any], layout: Mapping[str, str]) -> dict[str, Any]:
    """One row in pool types. Raises BadRow."""
    row: dict[str, Any] = {}
    for field, column in layout.items():
        row[field] = _value(field, raw.get(column), column)
    row = {**_chat_row(raw, layout), **row}
    for column, value in raw.items():
        if column.startswith("solved_"):
            row[column] = share = _as_number(value, column)
            if share is not None and not 0 <= share <= 1:
                raise BadRow(column, f"expected a share between 0 and 1, found {value!r:.60}")
    if "question" not in row:
        raise BadRow("question", f"no question column (columns: {', '.join(map(str, raw))})"[:300])
    if row["question"] is None or not row["question"].strip():
        raise BadRow(layout.get("question", "question"), "the question is null or blank")
    if "thinking" in row or "attempt" in row:
        try:
            split = without_delimiters(row.get("thinking"), row.get("attempt"))
        except BadInput as error:
            raise BadRow(layout.get("thinking") or layout.get("attempt", "attempt"), error.message) from None
        row |= {f: text for f, text in zip(("thinking", "attempt"), split, strict=True) if f in row or text}
    return row


def _chat_row(raw: Mapping[str, Any], layout: Mapping[str, str]) -> dict[str, Any]:
    """Question, thinking and attempt from a column of messages, where no column of their own holds them.

    Raises BadRow where the messages are not one question and one reply, after a system message or none.
    """
    column = next((name for name in CHATS if raw.get(name)), None)
    if column is None or "thinking" in layout:
        return {}
    try:
        value = json.loads(raw[column]) if isinstance(raw[column], str) else raw[column]
        texts = []
        for message in value:
            role = str(message.get("role") or message["from"])
            content = message["content"] if "content" in message else message["value"]
            thinking = message.get("thinking") or ""
            texts.append(
                (
                    ROLES.get(role, role),
                    message_texts({"reasoning_content": thinking, **message, "content": content}),
                )
            )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        if "question" in layout:
            return {}
        raise BadRow(column, f"expected messages with role and content, found {raw[column]!r:.60}") from None
    roles = [role for role, _ in texts if role != "system"]
    if roles != ["user", "assistant"]:
        if "question" in layout:
            return {}
        raise BadRow(
            column, f"expected one question and one reply, found {', '.join(roles)[:60] or 'nothing'}"
        )
    (_, question), (thinking, reply) = (found for role, found in texts if role != "system")
    try:
        trace, attempt = without_delimiters(thinking or None, reply)
    except BadInput as error:
        raise BadRow(column, error.message) from None
    if "question" in layout and not trace:
        return {}  # the messages only repeat the columns
    made = {"question": question, "thinking": trace, "attempt": attempt}
    return {field: _value(field, text, column) for field, text in made.items()}


def _value(field: str, value: Any, column: str) -> Any:
    if value is None or (value == "" and field not in KEEP_BLANK):
        return None
    if field == "correct":
        return _verdict(value, column)
    if field == "trace_tokens":
        number = _as_number(value, column)
        if number is None or number < 0 or not number.is_integer():
            raise BadRow(column, f"expected a count of tokens, found {value!r:.60}")
        return int(number)
    if field == "thinking" and isinstance(value, list):
        traces = [v for v in value if v is not None]  # s1K keeps a list with one trace
        value = next((v for v in traces if v), traces[0] if traces else None)
        if value is None:
            return None
    elif field == "answer" and isinstance(value, list):
        _refuse_nothing(value, column)
        value = ", ".join(map(str, value))
    elif field in ("id", "answer", "attempt") and isinstance(value, (int, float)):
        _refuse_nothing(value, column)
        value = str(value)
    if not isinstance(value, str):
        raise BadRow(column, f"expected text, found {type(value).__name__} {value!r:.60}")
    if len(value) > MAX_CHARACTERS:
        raise BadRow(column, f"{len(value)} characters, more than the limit of {MAX_CHARACTERS}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadRow(column, "not valid UTF-8") from None
    return value


def _refuse_nothing(value: Any, column: str) -> None:
    """Raises BadRow for NaN and infinity, and for a null anywhere in a list."""
    if isinstance(value, list):
        for part in value:
            if part is None:
                raise BadRow(column, "the list holds null")
            _refuse_nothing(part, column)
    elif isinstance(value, float) and not math.isfinite(value):
        raise BadRow(column, f"expected a value, found {value}")


def _verdict(value: Any, column: str) -> bool | None:
    """Yes/No words, booleans, or a score of which only 1 counts as right."""
    if isinstance(value, str) and value.strip().lower() in VERDICTS:
        return VERDICTS[value.strip().lower()]
    number = _as_number(value, column)
    return None if number is None else number >= 1


def _as_number(value: Any, column: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        number = float(value)
        return None if number != number else number
    except (TypeError, ValueError, OverflowError):
        raise BadRow(column, f"expected a number, found {value!r:.60}") from None
