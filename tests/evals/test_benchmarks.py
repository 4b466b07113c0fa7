"""Benchmarks load whole, or name the row that cannot be used."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s1.errors import BadConfig, BadInput, MissingExtra, S1Error
from s1.evals import benchmarks
from s1.evals.benchmark_sources import KNOWN
from s1.evals.benchmarks import Benchmark, load_benchmark
from s1.evals.question_rows import render_choices, shuffled
from s1.grading import equivalent
from s1.types import Question

ROWS = [
    {"problem": "1+1?", "answer": "2"},
    {"problem": "2+2?", "answer": "4"},
    {"problem": "x?", "answer": r"\frac12"},
]
GPQA = {
    "Question": "Which is a metal?",
    "Correct Answer": "Iron",
    "Incorrect Answer 1": "Neon",
    "Incorrect Answer 2": "Argon",
    "Incorrect Answer 3": "Xenon",
    "Record ID": "rec1",
}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def described(file: Path, **keys: Any) -> Benchmark:
    """The benchmark of a description of `file` with these keys."""
    description = file.with_suffix(".yaml")
    description.write_text(json.dumps({"path": file.name, **keys}), encoding="utf-8")
    return load_benchmark(description)


def test_every_format_gives_the_same_questions(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    files = [write(tmp_path / "set.jsonl", ROWS)]
    (tmp_path / "set.json").write_text(json.dumps({"data": ROWS}))
    with (tmp_path / "set.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["problem", "answer"])
        writer.writeheader()
        writer.writerows(ROWS)
    polars.DataFrame(ROWS).write_parquet(tmp_path / "set.parquet")
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(files[0].read_bytes()))
    files += [tmp_path / f"set.{ending}" for ending in ("json", "csv", "parquet", "jsonl.gz")]
    found = [load_benchmark(file) for file in files]
    assert {b.questions for b in map(_comparable, found)} == {_comparable(found[0]).questions}
    assert {(b.name, b.kind) for b in found} == {("set", "math")}
    assert [q.answer for q in found[0].questions] == ["2", "4", r"\frac12"]


def _comparable(benchmark: Benchmark) -> Any:
    return types.SimpleNamespace(
        questions=tuple((q.id, q.text, q.answer, q.choices) for q in benchmark.questions)
    )


def test_the_version_follows_the_content_and_a_limit_takes_the_first(tmp_path: Path) -> None:
    whole = load_benchmark(write(tmp_path / "a.jsonl", ROWS))
    first = load_benchmark(tmp_path / "a.jsonl", 2)
    assert len(first.questions) == 2 and first.kind == "math" and first.version == whole.version
    again = load_benchmark(write(tmp_path / "a.jsonl", [*ROWS[:2], {"problem": "x?", "answer": "3"}]))
    assert again.version != whole.version
    assert again.questions[:2] == whole.questions[:2]


def test_columns_are_found_by_usual_names_or_by_a_mapping(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"Question": "Why?", "Short Answer": "so", "P": "Who?", "G": "me"}])
    assert load_benchmark(file).questions[0].answer == "so"
    mapped = described(file, columns={"question": "P", "answer": "G"}, kind="text")
    assert (mapped.questions[0].text, mapped.questions[0].answer, mapped.kind) == ("Who?", "me", "text")


def test_a_few_lines_of_yaml_describe_a_set(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"P": "Who?", "G": "me"}])
    file = tmp_path / "mine.yaml"
    file.write_text("path: a.jsonl\nkind: text\ncolumns: {question: P, answer: G}\n")
    found = load_benchmark(file)
    assert (found.name, found.kind, found.questions[0].text) == ("mine", "text", "Who?")


def test_a_description_can_filter_and_name_a_version(tmp_path: Path) -> None:
    rows = [{"problem": f"{i}?", "answer": str(i), "level": i % 3, "topic": "ab"[i % 2]} for i in range(12)]
    write(tmp_path / "a.jsonl", rows)
    file = tmp_path / "m.yaml"
    file.write_text("path: a.jsonl\nversion: 2026\nfilter: {level: [1, 2], topic: a}\n")
    found = load_benchmark(file)
    assert [q.answer for q in found.questions] == ["2", "4", "8", "10"]
    assert found.version.startswith("2026, a.jsonl@")
    file.write_text("path: a.jsonl\nfilter: {level: 7}\n")
    with pytest.raises(BadInput, match="no row passes the filter"):
        load_benchmark(file)
    file.write_text("path: a.jsonl\nfilter: {Level: 1}\n")
    with pytest.raises(BadInput, match="row 1: the column 'Level' of the filter is missing"):
        load_benchmark(file)


def test_choices_of_a_description_come_from_a_column_or_from_one_column_each(tmp_path: Path) -> None:
    rows = [
        {
            "Q": "Metal?",
            "Opts": ["Neon", "Iron"],
            "Right": "B",
            "good": "Iron",
            "bad1": "Neon",
            "bad2": "Argon",
        }
    ]
    write(tmp_path / "a.jsonl", rows)
    file = tmp_path / "m.yaml"
    file.write_text("path: a.jsonl\ncolumns: {question: Q, choices: Opts, answer: Right}\n")
    listed = load_benchmark(file).questions[0]
    assert (listed.choices, listed.answer) == (("Neon", "Iron"), "B")
    file.write_text("path: a.jsonl\ncolumns: {question: Q, correct: good, incorrect: [bad1, bad2]}\n")
    single = load_benchmark(file)
    question = single.questions[0]
    assert single.kind == "choice" and sorted(question.choices) == ["Argon", "Iron", "Neon"]
    assert question.choices["ABC".index(str(question.answer))] == "Iron"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path: a.jsonl\nfilter: 3\n", "filter"),
        ("path: a.jsonl\nlast: many\n", "last"),
        ("path: a.jsonl\nkinds: text\n", "'kinds'"),
        ("path: a.jsonl\nkind: words\n", "'words'"),
        ("path: a.jsonl\ncolumns: {quest: P}\n", "'quest'"),
        ("name: x\n", "path or a hub"),
        ("path: 3\n", "path"),
        ("- 1\n", "found list"),
        ("path: [\n", "YAML"),
    ],
)
def test_a_bad_description_says_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(S1Error, match=message):
        load_benchmark(tmp_path / "m.yaml")


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (27.0, "27"),
        (6.5, "6.5"),
        (12, "12"),
        (True, "True"),
        ("Janet has 3 * 6.\n#### 18", "18"),
        (["$2n$"], "$2n$"),
        (["1", 3], "1, 3"),
        ("025", "025"),
    ],
)
def test_answers_of_all_shapes_become_text(tmp_path: Path, answer: object, read: str) -> None:
    file = write(tmp_path / "a.jsonl", [{"question": "?", "answer": answer}])
    assert load_benchmark(file).questions[0].answer == read


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "1+1?"}, "row 2: no answer found"),
        ({"problem": "1+1?", "answer": None}, "row 2, field 'answer'"),
        ({"problem": "1+1?", "answer": " "}, "row 2, field 'answer'"),
        ({"problem": "1+1?", "answer": []}, "row 2, field 'answer'"),
        ({"problem": "1+1?", "answer": {"a": 1}}, "row 2, field 'answer'"),
        ({"problem": "1+1?", "answer": float("nan")}, "row 2, field 'answer'"),
        ({"problem": None, "answer": "2"}, "row 2, field 'problem'"),
        ({"problem": 3, "answer": "2"}, "row 2, field 'problem'"),
        ({"answer": "2"}, "row 2: no question found"),
        ([1, 2], "row 2.*expected an object"),
        ({"problem": "?", "choices": ["a"], "answer": "A"}, "row 2, field 'choices'"),
        ({"problem": "?", "choices": ["a", "b"], "answer": "C"}, "row 2: the answer 'C' names none of 2"),
        ({"problem": "?", "choices": ["a", "b"]}, "row 2: the answer None names none"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: object, message: str) -> None:
    file = write(tmp_path / "a.jsonl", [ROWS[0], row])
    with pytest.raises(BadInput, match=message) as error:
        load_benchmark(file)
    assert str(file) in error.value.message and error.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"problem": "?", "answer": "1"}\n{"problem": ', "row 2.*JSON"),
        ("a.jsonl", b"\xff\xfe", "row 1.*UTF-8"),
        ("a.jsonl", b"\n\n", "no rows"),
        ("a.json", b"{}", "list of objects"),
        ("a.json", b"[", "row 1.*JSON"),
        ("a.csv", b"problem,answer\n1+1?,2\n1+1?,2,3\n", "row 2.*3 cells"),
        ("a.jsonl.gz", b"plain", "row 1.*damaged"),
        ("a.parquet", b"plain", "not a readable Parquet file"),
        ("a.txt", b"plain", "format"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match=message) as error:
        load_benchmark(tmp_path / name)
    assert name in error.value.message and error.value.hint


def test_a_missing_file_and_an_unknown_name_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load_benchmark(tmp_path / "none.jsonl")
    with pytest.raises(BadConfig, match="aime26") as error:
        load_benchmark("aime26")
    assert "aime25" in error.value.hint


def test_the_same_question_twice_gets_two_ids_and_always_the_same_ones(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [ROWS[0], ROWS[1], ROWS[0]])
    ids = [q.id for q in load_benchmark(file).questions]
    assert ids[2] == f"{ids[0]}-2" and len(set(ids)) == 3
    assert ids == [q.id for q in load_benchmark(file).questions]


def test_gpqa_choices_are_ordered_by_the_question_and_never_by_chance(tmp_path: Path) -> None:
    others = [{**GPQA, "Question": f"Which is a metal, asked {i} times?"} for i in range(40)]
    file = write(tmp_path / "gpqa.jsonl", [GPQA, *others])
    found = described(file, columns={"id": "Record ID"})
    assert found.kind == "choice" and found == described(file, columns={"id": "Record ID"})
    for question in found.questions:
        assert question.choices[ord(str(question.answer)) - ord("A")] == "Iron"
        assert f"{question.answer}) Iron" in question.text.splitlines()
    assert {q.answer for q in found.questions} == set("ABCD")
    assert found.questions[0].meta["row_id"] == "rec1"
    assert load_benchmark(file).questions[0].choices == found.questions[0].choices


def test_gpqa_with_two_equal_choices_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "gpqa.jsonl", [{**GPQA, "Incorrect Answer 1": "iron"}])
    with pytest.raises(BadInput, match="row 1: two choices"):
        load_benchmark(file)


def test_shuffling_is_fixed_for_ever() -> None:
    assert shuffled("q", ["a", "b", "c", "d"]) == sorted(
        range(4), key=lambda i: __import__("hashlib").sha256(f"q\n{'abcd'[i]}".encode()).hexdigest()
    )
    assert render_choices("Q?", ["x", "y"]) == "Q?\n\nA) x\nB) y"


@pytest.mark.parametrize("answer", ["B", "(B)", "b", 1, "two"])
def test_listed_choices_keep_their_order(tmp_path: Path, answer: object) -> None:
    file = write(tmp_path / "a.jsonl", [{"question": "?", "options": ["(A)one", "(B)two"], "label": answer}])
    question = load_benchmark(file).questions[0]
    assert (question.text, question.answer, question.choices) == ("?\n\nA) one\nB) two", "B", ("one", "two"))


def test_a_registered_loader_is_called_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Benchmark("made", "exact", (Question("1", "a", "b"), Question("2", "c", "d")), "v1")
    module = types.ModuleType("made_up_module")
    module.load = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up_module", module)
    monkeypatch.setitem(benchmarks.LOADERS, "made", "made_up_module:load")
    assert load_benchmark("made") == made
    assert [q.id for q in load_benchmark("made", 1).questions] == ["1"]
    with pytest.raises(BadConfig, match="limit of 0"):
        load_benchmark("made", 0)


class _Hub(types.ModuleType):
    """In place of the `datasets` package."""

    def __init__(self, result: Any) -> None:
        super().__init__("datasets")
        self.result, self.asked = result, {}

    def load_dataset(self, hub: str, config: str | None, **more: Any) -> Any:
        self.asked = {"hub": hub, "config": config, **more}
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


class _Rows(list[Any]):
    column_names = ("problem", "answer")


def test_a_known_name_is_loaded_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = _Hub(_Rows({"problem": f"{i}+1?", "answer": f"{i + 1:03}"} for i in range(90)))
    monkeypatch.setitem(sys.modules, "datasets", hub)
    found = load_benchmark("aime24_figures")
    assert hub.asked["hub"] == "simplescaling/aime24_figures"
    assert (len(found.questions), found.questions[0].text, found.kind) == (30, "60+1?", "integer")
    assert found.version == "simplescaling/aime24_figures:default:train@main"


def test_gated_gpqa_says_how_to_get_access(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", _Hub(RuntimeError("401 gated repo")))
    with pytest.raises(BadInput, match="gated repo") as error:
        load_benchmark("gpqa_diamond")
    assert "Accept its terms" in error.value.hint and "hf auth login" in error.value.hint


def test_the_hub_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        load_benchmark("math500")


FILES = [
    ("aime2024.jsonl", 30, "integer", "204"),
    ("aime2024_alt.jsonl", 30, "integer", "73"),
    ("aime2025.jsonl", 30, "integer", "70"),
    ("amc23.jsonl", 40, "integer", "27"),
    ("gsm8k_test.jsonl", 1319, "integer", "18"),
    ("imo_answerbench.jsonl", 400, "math", "3"),
    ("math500.jsonl", 500, "math", r"\left( 3, \frac{\pi}{2} \right)"),
    ("olymmath_en.jsonl", 200, "math", "948"),
    ("olympiadbench_oe_to_maths_en.jsonl.gz", 675, "math", "2"),
]


@pytest.mark.parametrize(("name", "count", "kind", "first"), FILES)
def test_real_files_load_whole_and_their_answers_equal_themselves_alone(
    shared_data: Path, name: str, count: int, kind: str, first: str
) -> None:
    found = load_benchmark(shared_data / "benchmarks" / name)
    assert (len(found.questions), found.kind, found.questions[0].answer) == (count, kind, first)
    answers = [str(q.answer) for q in found.questions]
    assert len({q.id for q in found.questions}) == count
    assert all(equivalent(answer, answer, found.kind) for answer in answers)
    # Row i against row i+1: equal answers next to each other happen; equal by mistake must not.
    pairs = [(a, b) for a, b in zip(answers, answers[1:], strict=False) if a.strip() != b.strip()]
    mistaken = [(a, b) for a, b in pairs[:80] if equivalent(a, b, found.kind)]
    assert [pair for pair in mistaken if pair != ("5", "x=5")] == []


def test_aime_with_leading_zeros_equals_the_other_transcription(shared_data: Path) -> None:
    first = load_benchmark(shared_data / "benchmarks" / "aime2024.jsonl")
    other = load_benchmark(shared_data / "benchmarks" / "aime2024_alt.jsonl")
    assert sorted(int(str(q.answer)) for q in first.questions) == sorted(
        int(str(q.answer)) for q in other.questions
    )
    assert "025" in {q.answer for q in first.questions}


def test_olympiad_tolerances_and_ids_are_kept(shared_data: Path) -> None:
    found = load_benchmark(shared_data / "benchmarks" / "olympiadbench_oe_to_maths_en.jsonl.gz")
    assert found.questions[0].meta["row_id"] == 1606
    assert [q.answer for q in found.questions if q.meta.get("tolerance") == 0.1] == ["4.2"]


def test_of_aime24_with_figures_the_last_30_rows_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [{"problem": f"{i}?", "answer": str(i)} for i in range(90)]
    file = write(tmp_path / "a.jsonl", rows)
    monkeypatch.setitem(KNOWN, "aime24_figures", replace(KNOWN["aime24_figures"], path=str(file)))
    found = load_benchmark("aime24_figures")
    assert [q.answer for q in found.questions] == [str(i) for i in range(60, 90)]
