"""Benchmarks: questions with reference answers, from a file, a YAML description or the Hub.

    load_benchmark("aime24")                      known name, from the Hub
    load_benchmark("aime24", path="aime.jsonl")   known name, from a file
    load_benchmark("my.parquet")                  any JSONL, JSON, CSV or Parquet file (.gz as well)
    load_benchmark("my.yaml")                     the same, described in a few lines:

        path: my.parquet        # or hub: owner/name; `described` lists all keys
        columns: {question: Prompt, answer: Gold}

Columns are found by name where none are given. Choices are put in an order that depends on the
question alone. A row that cannot be used is an error that names it: a benchmark that silently
shrinks is worth nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from s1.errors import BadConfig, BadInput, MissingExtra
from s1.evals.benchmark_files import KNOWN, Columns, Source, checked_kind, columns_of, described, selected
from s1.evals.benchmark_rows import Row, rows_of_file
from s1.types import Question, question_id, to_json


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Questions in file order, with what is needed to say that two runs saw the same ones."""

    name: str
    kind: str
    """How answers are graded, one of s1.grading.KINDS."""
    questions: tuple[Question, ...]
    version: str
    """Where they came from: file name and content, or Hub set, split and revision."""
    hash: str
    """First 16 hex digits of SHA-256 over ids, texts, answers and choices, in order."""


LOADERS: dict[str, str] = {"petri": "s1.petri.world:benchmark"}
"""Benchmarks that are made rather than read: name to the `module:function` that returns a Benchmark."""

QUESTION_NAMES = ("problem", "question", "prompt")
ANSWER_NAMES = ("answer", "final_answer", "short answer", "gold", "target", "label")
CHOICES_NAMES = ("choices", "options")
GPQA_COLUMNS = KNOWN["gpqa_diamond"].columns


def load_benchmark(
    name_or_path: str | Path,
    limit: int | None = None,
    *,
    path: str | Path | None = None,
    kind: str = "",
    columns: Columns | Mapping[str, Any] | None = None,
) -> Benchmark:
    """The benchmark of this name, or of this file; the first `limit` questions of it.

    `path` gives a known name the file to read instead of the Hub. `kind` and `columns` override
    what is known or guessed. Raises BadInput naming file, row and field; BadConfig for an unknown
    name; MissingExtra where the Hub or Parquet needs a library.
    """
    if limit is not None and limit < 1:
        raise BadConfig(f"A limit of {limit} questions leaves nothing.", "Give a limit of 1 or more.")
    name = str(name_or_path)
    if name in LOADERS and path is None:
        return _first(_call(LOADERS[name]), limit)
    source = _source(name, path)
    if columns is not None:
        source = replace(
            source, columns=columns if isinstance(columns, Columns) else columns_of(columns, name)
        )
    if kind or source.kind:
        source = replace(source, kind=checked_kind(kind or source.kind, name))
    rows, version = rows_of_file(Path(source.path)) if source.path else _rows_of_hub(source)
    where = source.path or source.hub
    if source.version:
        version = f"{source.version}, {version}"
    if source.filter:
        rows = selected(rows, source, source.path or source.hub)
    numbered = list(rows)[-source.last :] if source.last and not source.path else rows
    questions = tuple(_unique(_question(row, number, where, source) for number, row in numbered))
    if not questions and source.filter:
        raise BadInput(f"{where}: no row passes the filter {dict(source.filter)}.", "Look at its values.")
    if not questions:
        raise BadInput(f"{where} holds no questions.", "Give a file with one question per row.")
    guessed = source.kind or _guess_kind(questions)
    return _first(Benchmark(source.name, guessed, questions, version, questions_hash(questions)), limit)


def questions_hash(questions: Sequence[Question]) -> str:
    """The hash by which two runs know that they saw the same questions in the same order."""
    content = [[q.id, q.text, q.answer, list(q.choices)] for q in questions]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()[:16]


def shuffled(question: str, choices: Sequence[str]) -> list[int]:
    """An order of the choices that depends on the question and them alone, never on global state."""

    def key(index: int) -> str:
        return hashlib.sha256(f"{question}\n{choices[index]}".encode()).hexdigest()

    return sorted(range(len(choices)), key=key)


def render_choices(question: str, choices: Sequence[str]) -> str:
    """The question, a blank line, and the choices as lines "A) ..." (section 3.7)."""
    return question + "\n\n" + "\n".join(f"{_letter(i)}) {choice}" for i, choice in enumerate(choices))


def _first(benchmark: Benchmark, limit: int | None) -> Benchmark:
    if limit is None or limit >= len(benchmark.questions):
        return benchmark
    questions = benchmark.questions[:limit]
    return replace(benchmark, questions=questions, hash=questions_hash(questions))


def _call(target: str) -> Benchmark:
    module, _, function = target.partition(":")
    loader = cast(Callable[[], Benchmark], getattr(importlib.import_module(module), function))
    return loader()


def _source(name: str, path: str | Path | None) -> Source:
    if path is not None:
        known = KNOWN.get(name, Source(name))
        return replace(known, path=str(path))
    if name in KNOWN:
        return KNOWN[name]
    file = Path(name)
    if file.suffix in (".yaml", ".yml"):
        return described(file)
    if file.exists() or file.suffix or "/" in name:
        return Source(re.sub(r"\.(jsonl?|csv|parquet)$", "", re.sub(r"\.gz$", "", file.name)), path=name)
    names = ", ".join(sorted({*KNOWN, *LOADERS}))
    raise BadConfig(f"Unknown benchmark {name!r}.", f"Give a file, or one of: {names}.")


def _rows_of_hub(source: Source) -> tuple[Iterator[tuple[int, Row]], str]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", "data") from error
    where = f"{source.hub} ({source.config or 'default'}, {source.split})"
    try:
        data = datasets.load_dataset(
            source.hub, source.config or None, split=source.split, revision=source.revision or None
        )
    except Exception as error:  # the Hub client raises errors of many libraries; all mean "not loaded"
        reason = " ".join(str(error).split())[:200]
        hint = source.access or "Check the name and the network, or read it from a file with path=FILE."
        raise BadInput(f"{where} could not be loaded: {type(error).__name__}: {reason}", hint) from error
    if "image" in data.column_names:  # decoding figures needs another library, and no model here reads them
        data = data.remove_columns("image")
    version = f"{source.hub}:{source.config or 'default'}:{source.split}@{source.revision or 'main'}"
    return enumerate(data, 1), version


# From a row to a question.


def _question(row: Any, number: int, where: str, source: Source) -> Question:
    place = f"{where}, row {number}"
    if not isinstance(row, Mapping):
        raise BadInput(f"{place}: expected an object, found {row!r:.60}.", "Give one object per row.")
    columns = source.columns
    asked = _text(row, columns.question or _find(row, QUESTION_NAMES, place, "question"), place)
    context = row.get(columns.context or "context")
    if isinstance(context, str) and context.strip():
        asked = f"{context.strip()}\n\n{asked}"
    if not columns.correct and {GPQA_COLUMNS.correct, *GPQA_COLUMNS.incorrect} <= set(row):
        columns = replace(columns, correct=GPQA_COLUMNS.correct, incorrect=GPQA_COLUMNS.incorrect)
    text = asked
    choices: tuple[str, ...] = ()
    if columns.correct:
        offered = [_text(row, name, place) for name in (columns.correct, *columns.incorrect)]
        if len({choice.casefold() for choice in offered}) < len(offered):
            raise BadInput(f"{place}: two choices are the same.", "Mend or remove this row.")
        order = shuffled(asked, offered)
        choices = tuple(offered[i] for i in order)
        answer = _letter(order.index(0))
    elif listed := columns.choices or next((c for c in CHOICES_NAMES if isinstance(row.get(c), list)), ""):
        choices = _listed_choices(row, listed, place)
        answer = _answer_letter(row, columns, choices, place)
    else:
        column = columns.answer or _find(row, ANSWER_NAMES, place, "answer")
        answer = _answer(row.get(column), f"{place}, field {column!r}")
    if choices:
        text = render_choices(asked, choices)
    return Question(question_id(text, source.name), text, answer, source.name, choices, _meta(row, columns))


def _find(row: Row, names: Sequence[str], place: str, what: str) -> str:
    by_lower = {str(key).lower(): str(key) for key in row}
    for name in names:
        if name in by_lower:
            return by_lower[name]
    raise BadInput(
        f"{place}: no {what} found in the columns {', '.join(map(str, row))}.",
        f"Name it: columns: {{{what}: COLUMN}}.",
    )


def _text(row: Row, column: str, place: str) -> str:
    value = row.get(column)
    if column not in row:
        raise BadInput(f"{place}: the field {column!r} is missing.", "Add it, or map another column.")
    if not isinstance(value, str) or not value.strip():
        raise BadInput(
            f"{place}, field {column!r}: expected text, found {value!r:.60}.", "Mend or remove this row."
        )
    return value.strip()


def _answer(value: Any, place: str) -> str:
    """A reference answer as text: "27" of 27.0, "1, 3" of ["1", "3"], "18" of "... #### 18"."""
    if isinstance(value, list):
        parts = [_answer(part, place) for part in value]
        if parts:
            return ", ".join(parts)
    elif isinstance(value, int):
        return str(value)
    elif isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    elif isinstance(value, str) and (written := value.rsplit("####", 1)[-1].strip()):
        return written
    raise BadInput(f"{place}: expected an answer, found {value!r:.60}.", "Add it, or remove this row.")


def _listed_choices(row: Row, column: str, place: str) -> tuple[str, ...]:
    value = row.get(column)
    if (
        not isinstance(value, list)
        or len(value) < 2
        or not all(isinstance(c, str) and c.strip() for c in value)
    ):
        raise BadInput(
            f"{place}, field {column!r}: expected a list of choices, found {value!r:.60}.",
            "Mend or remove this row.",
        )
    return tuple(re.sub(r"^\(?[A-Z][).:]\s*", "", choice.strip()) for choice in value)


def _answer_letter(row: Row, columns: Columns, choices: Sequence[str], place: str) -> str:
    names = (
        [columns.answer]
        if columns.answer
        else [str(key) for name in ("label", *ANSWER_NAMES) for key in row if str(key).lower() == name]
    )
    given = next((row[name] for name in names if row.get(name) is not None), None)
    if isinstance(given, int) and not isinstance(given, bool) and 0 <= given < len(choices):
        return _letter(given)
    if isinstance(given, str):
        if given.strip() in choices:
            return _letter(list(choices).index(given.strip()))
        letters = re.fullmatch(r"\(?([A-Z]+)\)?", given.strip().upper())
        if letters and all(ord(c) - ord("A") < len(choices) for c in letters.group(1)):
            return letters.group(1)
    raise BadInput(
        f"{place}: the answer {given!r:.60} names none of {len(choices)} choices.",
        "Give a letter, an index from 0, or a choice itself.",
    )


def _meta(row: Row, columns: Columns) -> dict[str, Any]:
    """What may be asked later: the row's own id, level, subject, tolerance. No solutions."""
    meta: dict[str, Any] = {}
    for name in dict.fromkeys((columns.id, "id", "unique_id", "Problem ID")):
        if name and row.get(name) is not None:
            meta.setdefault("row_id", to_json(row[name]))
    for name in ("subject", "level", "split", "subfield", "unit", "answer_type"):
        if isinstance(row.get(name), (str, int, float)):
            meta[name] = row[name]
    tolerance = row.get(columns.tolerance or "error")
    try:
        if tolerance is not None and 0 < float(tolerance) < math.inf:
            meta["tolerance"] = float(tolerance)
    except (TypeError, ValueError):
        # OlympiadBench writes one tolerance per part ("1e-1,1e-2") for some rows: exact comparison, then.
        meta["tolerance_as_written"] = str(tolerance)
    return meta


def _unique(questions: Iterator[Question]) -> Iterator[Question]:
    """The same question again gets the id ID-2, then ID-3: same file, same ids."""
    seen: dict[str, int] = {}
    for question in questions:
        seen[question.id] = seen.get(question.id, 0) + 1
        times = seen[question.id]
        yield question if times == 1 else replace(question, id=f"{question.id}-{times}")


def _guess_kind(questions: Sequence[Question]) -> str:
    if all(q.choices for q in questions):
        return "choice"
    if all(re.fullmatch(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)", q.answer or "") for q in questions):
        return "integer"
    return "math"


def _letter(index: int) -> str:
    return chr(ord("A") + index)
