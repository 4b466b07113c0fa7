"""Multiple choice: the shapes in which public benchmarks give choices and name the right one.

    {"choices": ["Neon", "Iron"], "answer": 1}                                  MMLU; also a letter or the text
    {"choices": {"text": [...], "label": ["1", "2"]}, "answerKey": "2"}         ARC
    {"options": {"A": "Neon", "B": "Iron"}, "answer_idx": "B", "answer": "Iron"}    MedQA
    {"options": [{"key": "A", "value": "Neon"}, ...]}                           objects
    {"A": "Neon", "B": "Iron"}, {"opa": "Neon", "opb": "Iron", "cop": 1}        a column for each choice

A text column may hold the JSON of one of these. What cannot be read is a BadInput that names the row.
"""

from __future__ import annotations

import ast
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from s1.errors import BadInput
from s1.evals.benchmark_sources import BenchmarkColumns
from s1.terminal import valid_text

CHOICES_NAMES = ("choices", "options", "answer_choices")
RIGHT_NAMES = (
    "answer", "answer_idx", "answerkey", "answer_key", "answer_index", "answer_letter", "label", "cop",
    "correct_option", "correct_answer", "final_answer", "short answer", "gold", "target",
)  # fmt: skip
LABEL_NAMES = frozenset({"answer_idx", "answerkey", "answer_key", "answer_letter", "label"})
"""Of these, the ones that hold a label rather than a text."""
TEXTS, LABELS = ("text", "texts", "value", "content"), ("label", "labels", "key", "id")
CORRECT_IT = "Correct or remove this row."
FEW = 10
"""At most so many indexed rows without a 0 are believed to be counted from 0."""


class Offered(NamedTuple):
    """The choices of a question in order, with the label that the row gives each; no labels: by place."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()


def choices_of(row: Mapping[str, Any], columns: BenchmarkColumns, place: str) -> Offered | None:
    """What the row offers, or None for a row without choices. Raises BadInput for choices in no known shape."""
    names = [columns.choices] if columns.choices else [c for c in row if str(c).lower() in CHOICES_NAMES]
    name = next((c for c in names if columns.choices or row[c] not in (None, "", [], {})), None)
    if name is None:
        return _from_columns(row)
    pairs = _pairs(row.get(name))
    labels, texts = [label for label, _ in pairs or ()], [_text(text) for _, text in pairs or ()]
    labelled = any(labels)
    if len(texts) < 2 or not all(texts) or (labelled and len({*labels, ""}) <= len(labels)):
        raise BadInput(
            f"{place}, field {name!r}: expected a list of choices, found {row.get(name)!r:.60}.",
            "Give a list of texts, or an object of label and text.",
        )
    return Offered(tuple(texts), tuple(labels) if labelled else ())


def numbering(
    rows: Iterable[tuple[int, Mapping[str, Any]]], columns: BenchmarkColumns, where: str
) -> int | None:
    """The number of the first choice where answers are numbers: 0 or 1, or None where the rows do not tell.

    A 0 shows that they count from 0, and the number of choices that they count from 1. Without either, a few
    whole numbers count from 0, as in MMLU.
    """
    numbers: list[tuple[int, int, bool]] = []
    for row_number, row in rows:
        if offered := choices_of(row, columns, f"{where}, row {row_number}"):
            for value in _given(row, columns).values():
                number, written = _number(value), isinstance(value, str)
                named = _named if written else _labelled
                if number is not None and not named(str(number), offered):
                    numbers.append((number, len(offered.texts), written))
    if any(number == 0 for number, _, _ in numbers):
        return 0
    if any(number == n for number, n, _ in numbers):
        return 1
    return None if any(written for _, _, written in numbers) or len(numbers) > FEW else 0


def answer_letters(row: Mapping[str, Any], columns: BenchmarkColumns, offered: Offered, place: str) -> str:
    """The letter of the right choice, or the letters of several. All fields that name one must agree."""
    given = _given(row, columns)
    found = {name: _readings(value, offered, columns.numbered_from, name) for name, value in given.items()}
    found = {name: letters for name, letters in found.items() if letters}
    common = set.intersection(*found.values()) if found else set()
    if len(common) == 1:
        return common.pop()
    first = repr(next(iter(given.values()), None))[:60]
    if not found:
        raise BadInput(
            f"{place}: the answer {first} names none of {len(offered.texts)} choices.",
            "Give a letter, an index from 0, or a choice itself.",
        )
    if not common:
        raise BadInput(f"{place}: the fields {', '.join(found)} differ on the right choice.", CORRECT_IT)
    raise BadInput(
        f"{place}: the answer {first} may mean more than one of {len(offered.texts)} choices.",
        "Give a letter. Where answers are numbers, say whether the first choice is 0 or 1: "
        "columns: {numbered_from: 1} in a description.",
    )


def letter(index: int) -> str:
    return chr(ord("A") + index)


def _pairs(value: Any) -> list[tuple[str, Any]] | None:
    """(label, text) of every choice, with "" for no label; None for no known shape."""
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, list):
        if all(isinstance(each, str) for each in value):
            return _prefixed(value)
        each_pair = [_pair(each) for each in value]
        return each_pair if all(pair[1] is not None for pair in each_pair) else None
    if not isinstance(value, Mapping):
        return None
    texts, labels = _field(value, TEXTS), _field(value, LABELS)
    if isinstance(texts, list):
        labels = [""] * len(texts) if labels is None else labels
        if not isinstance(labels, list) or len(labels) != len(texts):
            return None
        return [(str(a).strip(), text) for a, text in zip(labels, texts, strict=True)]
    pairs = sorted(
        ((str(a).strip(), text) for a, text in value.items() if text is not None),
        key=lambda pair: (len(pair[0]), pair[0]),
    )
    return pairs if all(re.fullmatch(r"[A-Za-z]|\d{1,2}", a) for a, _ in pairs) else None


def _parsed(text: str) -> Any:
    """The value of a text column that holds JSON or a Python literal; None for other text."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return None


def _pair(each: Any) -> tuple[str, Any]:
    if not isinstance(each, Mapping):
        return "", each
    if len(each) == 1:
        ((label, text),) = each.items()
        return ("", text) if label in TEXTS else (str(label).strip(), text)
    label = _field(each, LABELS)
    return "" if label is None else str(label).strip(), _field(each, TEXTS)


def _field(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[key] for name in names for key in value if str(key).lower() == name), None)


def _prefixed(texts: Sequence[str]) -> list[tuple[str, Any]]:
    """ "(A) text" as label and text, if all have one."""
    found = [re.fullmatch(r"\s*\(?([A-Z])[).:]\s*(.*)", text, re.DOTALL) for text in texts]
    whole = [match for match in found if match]
    return [(m[1], m[2]) for m in whole] if len(whole) == len(texts) else [("", text) for text in texts]


def _text(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value).strip() if is_number or (isinstance(value, str) and valid_text(value) == value) else ""


def _from_columns(row: Mapping[str, Any]) -> Offered | None:
    """One column for each choice: A, B, ..., option_a, ..., opa, ..., choice1, ..."""
    groups: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
    for name, value in row.items():
        match = re.fullmatch(r"(option|choice|opt?|)[ _]?([A-Ja-j]|\d)", str(name))
        if match and (match[1] or match[2].isupper()) and isinstance(value, str) and value.strip():
            groups[match[1], match[2].isdigit()].append((match[2].upper(), value.strip()))
    for (_, numbered), pairs in groups.items():
        labels, texts = zip(*sorted(pairs), strict=True)
        if "".join(labels[:2]) in ("AB", "01", "12"):
            return Offered(texts, () if numbered else labels)
    return None


def _given(row: Mapping[str, Any], columns: BenchmarkColumns) -> dict[str, Any]:
    """The fields that may name the right choice, in the order of RIGHT_NAMES."""
    lower = {str(key).lower(): key for key in row}
    names = [columns.answer] if columns.answer else [lower[name] for name in RIGHT_NAMES if name in lower]
    return {name: row[name] for name in names if row.get(name) not in (None, "", [])}


def _readings(value: Any, offered: Offered, first: int | None, name: str) -> set[str]:
    """The letters that the value of the field `name` may stand for."""
    if isinstance(value, list):
        parts = [_readings(part, offered, first, name) for part in value]
        if all(len(part) == 1 for part in parts):
            return {"".join(sorted({each for part in parts for each in part}))}
        return parts[0] if len(parts) == 1 else set()
    number = _number(value)
    if number is None and not isinstance(value, str):
        return set()
    text = str(value).strip() if isinstance(value, str) else str(number)
    places = _labelled(_bare(text), offered)
    if isinstance(value, str) and not (places and name.lower() in LABEL_NAMES):
        places = _named(text, offered)
    if not places and number is not None:
        starts = (0, 1) if first is None else (first,)
        places = {number - start for start in starts if 0 <= number - start < len(offered.texts)}
    if not places and (both := re.fullmatch(r"\(?([A-Z])[).:]\s*(.+)", text, re.DOTALL)):  # "B) Iron"
        places = _labelled(both[1], offered) & _named(both[2], offered)
    several = re.fullmatch(r"\(?([A-Z]{2,})\)?", text.upper())
    if not places and several and list(several[1]) == sorted(set(several[1])):
        each_place = [_labelled(each, offered) for each in several[1]]
        return {"".join(letter(min(place)) for place in each_place)} if all(each_place) else set()
    return {letter(i) for i in places}


def _named(text: str, offered: Offered) -> set[int]:
    """The places of the choices with this text, or one that differs in case and spaces, and with this label."""
    same = {i for i, each in enumerate(offered.texts) if each == text}
    folded = " ".join(text.casefold().split())
    alike = {i for i, each in enumerate(offered.texts) if " ".join(each.casefold().split()) == folded}
    return (same or alike) | _labelled(_bare(text), offered)


def _bare(text: str) -> str:
    """ "B" of "(B)", "B." and "B:"."""
    return re.sub(r"^\(?([A-Za-z])\)?[.:]?$", r"\1", text)


def _labelled(label: str, offered: Offered) -> set[int]:
    """The place with this label; without labels of their own, or with numbers, choices are A, B, C, ..."""
    if offered.labels and any(each.upper() == label.upper() for each in offered.labels):
        return {i for i, each in enumerate(offered.labels) if each.upper() == label.upper()}
    lettered = any(each.isalpha() for each in offered.labels)
    if len(label) != 1 or lettered or not "A" <= label.upper() <= "Z":
        return set()
    place = ord(label.upper()) - ord("A")
    return {place} if place < len(offered.texts) else set()


def _number(value: Any) -> int | None:
    """A whole number, also as text or as a float."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,2}\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) else None
