"""From the row of a benchmark to a question. A row that cannot be used is a BadInput that names it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from s1.errors import BadInput
from s1.evals.benchmark_sources import GPQA, BenchmarkColumns
from s1.evals.choices import CORRECT_IT, answer_letters, choices_of, letter
from s1.terminal import valid_text
from s1.types import Question, question_id, to_json

QUESTION_NAMES = ("problem", "question", "prompt", "question_stem")
ANSWER_NAMES = ("answer", "final_answer", "short answer", "gold", "target", "label")


def question_of(row: Mapping[str, Any], columns: BenchmarkColumns, name: str, place: str) -> Question:
    """The question of one row; `name` is the benchmark, `place` the file and row for errors.

    Choices are put in an order that depends on the question alone, and listed below it.
    """
    question = _text(row, columns.question or _find(row, QUESTION_NAMES, place, "question"), place)
    context = row.get(columns.context or "context")
    if isinstance(context, str) and context.strip():
        question = f"{context.strip()}\n\n{question}"
    if not columns.correct and {GPQA.correct, *GPQA.incorrect} <= set(row):
        columns = replace(columns, correct=GPQA.correct, incorrect=GPQA.incorrect)
    choices: tuple[str, ...] = ()
    if columns.correct:
        given = [_text(row, column, place) for column in (columns.correct, *columns.incorrect)]
        if len({choice.casefold() for choice in given}) < len(given):
            raise BadInput(f"{place}: two choices are equal.", CORRECT_IT)
        order = shuffled(question, given)
        choices, answer = tuple(given[i] for i in order), letter(order.index(0))
    elif offered := choices_of(row, columns, place):
        choices, answer = offered.texts, answer_letters(row, columns, offered, place)
    else:
        column = columns.answer or _find(row, ANSWER_NAMES, place, "answer")
        answer = _answer(row.get(column), f"{place}, field {column!r}")
    text = render_choices(question, choices) if choices else question
    return Question(question_id(text, name), text, answer, name, choices, _meta(row, columns))


def unwrapped(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with the fields of a question that is an object ({"stem": ..., "choices": ...}) as its own."""
    inner = row.get("question")
    if isinstance(inner, Mapping) and "stem" in inner:
        return {**row, **inner, "question": inner["stem"]}
    return row


def refuse_surrogates(row: Mapping[str, Any], place: str) -> None:
    """Raises BadInput for a text that UTF-8 cannot hold."""
    for column, value in row.items():
        text = json.dumps(value, ensure_ascii=False, default=str)
        if valid_text(text) != text:
            raise BadInput(f"{place}, field {column!r}: not valid UTF-8 (a lone surrogate).", CORRECT_IT)


def shuffled(question: str, choices: Sequence[str]) -> list[int]:
    """An order of the choices that depends on the question and them alone, never on global state."""

    def key(index: int) -> str:
        return hashlib.sha256(f"{question}\n{choices[index]}".encode()).hexdigest()

    return sorted(range(len(choices)), key=key)


def render_choices(question: str, choices: Sequence[str]) -> str:
    """The question, a blank line, and the choices as lines "A) ..." (section 3.7)."""
    return question + "\n\n" + "\n".join(f"{letter(i)}) {choice}" for i, choice in enumerate(choices))


def _find(row: Mapping[str, Any], names: Sequence[str], place: str, what: str) -> str:
    by_lower = {str(key).lower(): str(key) for key in row}
    for name in names:
        if name in by_lower:
            return by_lower[name]
    raise BadInput(
        f"{place}: no {what} found in the columns {', '.join(map(str, row))}.",
        f"Name it: columns: {{{what}: COLUMN}}.",
    )


def _text(row: Mapping[str, Any], column: str, place: str) -> str:
    if column not in row:
        raise BadInput(f"{place}: the field {column!r} is missing.", "Add it, or map another column.")
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise BadInput(f"{place}, field {column!r}: expected text, found {value!r:.60}.", CORRECT_IT)
    return value.strip()


def _answer(value: Any, place: str) -> str:
    """A reference answer as text: "27" of 27.0, "1, 3" of ["1", "3"], "18" of "... #### 18"."""
    if isinstance(value, list) and value:
        return ", ".join(_answer(part, place) for part in value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, str) and (written := value.rsplit("####", 1)[-1].strip()):
        return written
    raise BadInput(f"{place}: expected an answer, found {value!r:.60}.", "Add it, or remove this row.")


def _meta(row: Mapping[str, Any], columns: BenchmarkColumns) -> dict[str, Any]:
    """What may be needed later: the row's own id, level, subject, tolerance. No solutions."""
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
        # OlympiadBench has one tolerance per part ("1e-1,1e-2") in some rows; these are compared exactly.
        meta["tolerance_as_written"] = str(tolerance)
    return meta
