"""The shapes in which public benchmarks give choices and say which one is right: read, or refused by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.errors import BadInput
from s1.evals.benchmark_sources import BenchmarkColumns
from s1.evals.benchmarks import Benchmark, load_benchmark
from s1.evals.choices import answer_letters, choices_of

METALS = ["Neon", "Iron", "Argon", "Xenon"]
LETTERED = dict(zip("ABCD", METALS, strict=True))


def load(folder: Path, *rows: dict[str, Any], **columns: Any) -> Benchmark:
    file = folder / "set.jsonl"
    file.write_text(
        "".join(json.dumps({"question": f"Which? {i}", **row}) + "\n" for i, row in enumerate(rows))
    )
    description = folder / "set.yaml"
    description.write_text(json.dumps({"path": file.name, "columns": columns}))
    return load_benchmark(description)


SHAPES: dict[str, dict[str, Any]] = {
    "ARC": {"choices": {"text": METALS, "label": ["A", "B", "C", "D"]}, "answerKey": "B"},
    "ARC, numbered": {"choices": {"text": METALS, "label": ["1", "2", "3", "4"]}, "answerKey": "2"},
    "ARC, original": {
        "question": {"stem": "Which?", "choices": [{"text": t, "label": a} for a, t in LETTERED.items()]},
        "answerKey": "B",
    },
    "MedQA": {"options": LETTERED, "answer": "Iron", "answer_idx": "B", "meta_info": "step1"},
    "MedQA, BigBio": {"options": [{"key": a, "value": t} for a, t in LETTERED.items()], "answer": ["Iron"]},
    "MMLU": {"choices": METALS, "answer": 1, "subject": "chemistry"},
    "MMLU, CSV": {**LETTERED, "answer": "B"},
    "MMLU-Pro": {"options": METALS, "answer": "B", "answer_index": 1},
    "MedMCQA": {"opa": "Neon", "opb": "Iron", "opc": "Argon", "opd": "Xenon", "cop": 1},
    "letters before the texts": {"options": ["(A)Neon", "(B) Iron", "(C) Argon", "(D) Xenon"], "label": "B"},
    "letter and text": {"options": METALS, "answer": "B) Iron"},
    "text": {"options": METALS, "answer": "iron"},
    "list of one": {"options": METALS, "answer": ["B"]},
    "an option that is null": {"options": {**LETTERED, "E": None}, "answer": "B"},
    "JSON in a text column": {"options": json.dumps(LETTERED), "answer": "B"},
    "Python in a text column": {"options": str(METALS), "answer": "B"},
    "single-key objects": {"options": [{a: t} for a, t in LETTERED.items()], "answer": "B"},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_of_public_benchmarks_are_read(tmp_path: Path, shape: str) -> None:
    found = load(tmp_path, SHAPES[shape])
    question = found.questions[0]
    assert (found.kind, question.choices, question.answer) == ("choice", tuple(METALS), "B")
    assert question.text.endswith("\n\nA) Neon\nB) Iron\nC) Argon\nD) Xenon")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"choices": {"text": METALS, "label": ["A", "B"]}, "answer": "A"}, "row 1, field 'choices'"),
        ({"choices": {"text": METALS, "label": list("AABC")}, "answer": "A"}, "row 1, field 'choices'"),
        ({"choices": {"first": "Neon", "second": "Iron"}, "answer": "Neon"}, "row 1, field 'choices'"),
        ({"choices": {"A": "Neon", "B": ""}, "answer": "A"}, "row 1, field 'choices'"),
        ({"choices": ["Neon", None], "answer": "A"}, "row 1, field 'choices'"),
        ({"options": "Neon or Iron", "answer": "A"}, "row 1, field 'options'"),
        ({"options": 4, "answer": "A"}, "row 1, field 'options'"),
        ({"options": METALS, "answer": "B", "answer_index": 2}, "row 1.*answer_index.*differ"),
        ({"options": METALS, "answer": "3"}, "row 1.*numbered_from"),
        ({"options": ["B", "A"], "answer": "A"}, "row 1.*more than one"),
        ({"options": ["Iron", "Iron"], "answer": "Iron"}, "row 1.*more than one"),
        ({"options": METALS, "answer": "BAD"}, "row 1.*none of 4"),
    ],
)
def test_choices_that_cannot_be_understood_are_refused_with_the_row(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message) as error:
        load(tmp_path, row)
    assert "set.jsonl" in error.value.message and error.value.hint


def test_numbered_answers_never_shift_by_one(tmp_path: Path) -> None:
    def read(*answers: Any, **columns: Any) -> str:
        rows = [{"choices": METALS, "answer": a} for a in answers]
        return "".join(q.answer or "" for q in load(tmp_path, *rows, **columns).questions)

    assert read(0, 1, 2, 3) == read("0", "1", "2", "3") == "ABCD"
    assert read(1, 2, 3, 4) == read("1", "2", "3", "4") == read(4.0, 1.0, 2.0, 3.0)[1:] + "D" == "ABCD"
    with pytest.raises(BadInput, match="row 4"):
        read(0, 1, 2, 4)
    assert read(1, 2) == "BC", "from 0, as documented"
    for many in ([1, 2, 3] * 5, ["1", "2", "3"]):
        with pytest.raises(BadInput, match="numbered_from"):
            read(*many)
        assert read(*many, numbered_from=1).startswith("ABC")
        assert read(*many, numbered_from=0).startswith("BCD")


def test_several_right_choices(tmp_path: Path) -> None:
    for answer in ("AC", ["A", "C"], ["Argon", "Neon"], ["C", "A"]):
        assert load(tmp_path, {"options": METALS, "answer": answer}).questions[0].answer == "AC"


def test_a_file_of_letters_without_choices_is_graded_as_letters(tmp_path: Path) -> None:
    assert load(tmp_path, {"answer": "B"}, {"answer": "D"}).kind == "choice"
    assert load(tmp_path, {"choices": None, "answer": "7"}, {"choices": [], "answer": "8"}).kind == "integer"


texts = st.text("abc 12", min_size=1, max_size=3).map(str.strip).filter(bool)


@given(st.lists(texts, min_size=2, max_size=6, unique_by=str.casefold), st.data())
def test_every_way_to_name_the_same_choice_gives_its_letter(found: list[str], data: st.DataObject) -> None:
    """Whatever the texts are: as a letter, with labels of any kind, or as an index next to a letter."""
    right = data.draw(st.integers(0, len(found) - 1))
    letter = "ABCDEF"[right]
    rows: list[dict[str, Any]] = [
        {
            "choices": {"text": found, "label": list("ABCDEF"[: len(found)])},
            "answerKey": letter,
            "answer_index": right,
        },
        {"options": [{"label": str(i), "text": t} for i, t in enumerate(found, 1)], "label": str(right + 1)},
        {"options": dict(zip("ABCDEF", found, strict=False)), "answer": found[right], "answer_idx": letter},
    ]
    for row in rows:
        offered = choices_of(row, BenchmarkColumns(), "row 1")
        assert offered is not None and [" ".join(c.split()) for c in offered.texts] == [
            " ".join(f.split()) for f in found
        ]
        assert answer_letters(row, BenchmarkColumns(), offered, "row 1") == letter
