from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from s1.data.pool import conform, read_pool
from s1.data.read_files import rows_of
from s1.data.validate_rows import guess_columns
from s1.errors import BadInput

GOOD = {"id": "a", "question": "What is 2 + 2?", "thinking": "so 4 .", "attempt": "4", "correct": True}


def write_jsonl(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows) + "\n")
    return path


def reasons(path: Path) -> list[tuple[int, str, str]]:
    return list(read_pool(path).rejects.select("row", "field", "reason").iter_rows())


def test_the_same_rows_come_from_every_format(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": i, "trace_tokens": 3, "solved_small": 0.5} for i in "abc"]
    write_jsonl(tmp_path / "p.jsonl", *rows)
    (tmp_path / "p.json").write_text(json.dumps(rows))
    pl.DataFrame(rows).write_csv(tmp_path / "p.csv")
    pl.DataFrame(rows).write_parquet(tmp_path / "p.parquet")
    for kind in ("jsonl", "json", "csv"):
        (tmp_path / f"p.{kind}.gz").write_bytes(gzip.compress((tmp_path / f"p.{kind}").read_bytes()))
    first = read_pool(tmp_path / "p.parquet").rows
    assert first.height == 3 and first["solved_small"].to_list() == [0.5] * 3 and first["correct"].all()
    for kind in ("jsonl", "json", "csv", "jsonl.gz", "json.gz", "csv.gz"):
        assert read_pool(tmp_path / f"p.{kind}").rows.equals(first), kind


TRACES = ["so 4", "", None]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_a_missing_trace_stays_null_and_an_empty_one_stays_empty(tmp_path: Path, kind: str) -> None:
    rows = [
        {"id": f"r{i}", "question": f"What is {i}?", "thinking": t, "attempt": t}
        for i, t in enumerate(TRACES)
    ]
    file = tmp_path / f"p.{kind}"
    if kind == "csv":
        file.write_text(
            'id,question,thinking,attempt\nr0,What is 0?,so 4,so 4\nr1,What is 1?,"",""\nr2,What is 2?,,\n'
        )
    elif kind == "parquet":
        pl.DataFrame(rows).write_parquet(file)
    else:
        file.write_text(json.dumps(rows) if kind == "json" else "".join(json.dumps(r) + "\n" for r in rows))
    found = read_pool(file).rows
    expected = ["so 4", None, None] if kind == "csv" else TRACES  # CSV has one way to write both
    assert found["thinking"].to_list() == expected and found["attempt"].to_list() == expected


@pytest.mark.parametrize("trace", [[None], [], None, [None, "so 4"], [None, ""]])
def test_a_list_of_traces_without_one_is_null(tmp_path: Path, trace: Any) -> None:
    row = {"question": "Why?", "thinking_trajectories": trace, "attempt": "4"}
    expected = next((t for t in trace or () if t is not None), None)
    assert read_pool(write_jsonl(tmp_path / "p.jsonl", row)).rows["thinking"].to_list() == [expected]


@pytest.mark.parametrize("attempt", ["It is 4.<|im_end|>", "It is 4."])
def test_a_reply_without_thinking_has_null_thinking(tmp_path: Path, attempt: str) -> None:
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": attempt}]
    for row in ({"question": "Why?", "thinking": None, "attempt": attempt}, {"messages": said}):
        found = read_pool(write_jsonl(tmp_path / "p.jsonl", row)).rows
        assert found.select("thinking", "attempt").rows() == [(None, "It is 4.")]
    said[1]["content"] = "<think></think>It is 4."
    found = read_pool(write_jsonl(tmp_path / "p.jsonl", {"messages": said})).rows
    assert found.select("thinking", "attempt").rows() == [("", "It is 4.")]


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({**GOOD, "question": None}, "question", "null or blank"),
        ({**GOOD, "question": ["x"]}, "question", "expected text, found list"),
        ({**GOOD, "thinking": {"a": 1}}, "thinking", "expected text, found dict"),
        ({**GOOD, "trace_tokens": "many"}, "trace_tokens", "expected a number"),
        ({**GOOD, "trace_tokens": 1e999}, "trace_tokens", "expected a count"),
        ({**GOOD, "correct": "perhaps"}, "correct", "expected a number"),
        ({**GOOD, "solved_x": 50}, "solved_x", "share between 0 and 1"),
        ({**GOOD, "thinking": "x" * 101}, "thinking", "101 characters"),
        ({"id": "x", "answer": "4"}, "question", "no question column"),
        ('{"id": "x", "question": "\\ud800"}', "question", "not valid UTF-8"),
        ('{"id": "x", "quest', "", "cut short"),
        ("[1, 2]", "", "expected an object"),
    ],
)
def test_a_bad_row_is_rejected_with_its_place_and_the_good_ones_stay(
    tmp_path: Path, row: Any, field: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s1.data.validate_rows.MAX_CHARACTERS", 100)
    path = write_jsonl(tmp_path / "p.jsonl", {**GOOD, "id": "1"}, row, {**GOOD, "id": "3"})
    pool = read_pool(path)
    assert pool.rows["id"].to_list() == ["1", "3"]
    (reject,) = pool.rejects.to_dicts()
    assert (reject["row"], reject["field"], reject["file"]) == (2, field, str(path))
    assert reason in reject["reason"]


def test_a_line_that_is_not_utf8_is_rejected_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + '{"question": "é"}'.encode("latin-1") + b"\n")
    assert read_pool(path).rows.height == 1
    assert reasons(path) == [(2, "", "not UTF-8 (byte 15 of the line)")]


def test_a_cut_archive_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    lines = "".join(json.dumps({**GOOD, "id": str(i), "thinking": str(i**99)}) + "\n" for i in range(3000))
    whole = gzip.compress(lines.encode())
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(whole[: len(whole) // 2])
    pool = read_pool(path)
    assert 100 < pool.rows.height < 3000
    assert "ends early" in pool.rejects["reason"][-1]


def test_a_cut_json_list_gives_the_rows_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps([{**GOOD, "id": str(i)} for i in range(9)])[:-30])
    assert read_pool(path).rows.height == 8
    assert "cut short" in reasons(path)[0][2]


def test_a_cut_parquet_file_is_one_clear_error(tmp_path: Path) -> None:
    pl.DataFrame([GOOD]).write_parquet(tmp_path / "p.parquet")
    (tmp_path / "p.parquet").write_bytes((tmp_path / "p.parquet").read_bytes()[:-20])
    with pytest.raises(BadInput, match="not a readable Parquet file"):
        read_pool(tmp_path / "p.parquet")


def test_a_json_object_with_one_list_stands_for_that_list(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"version": 3, "data": [GOOD]}))
    assert read_pool(tmp_path / "p.json").rows["id"].to_list() == ["a"]
    (tmp_path / "p.json").write_text(json.dumps({"train": [GOOD], "test": [GOOD]}))
    with pytest.raises(BadInput, match="list"):
        read_pool(tmp_path / "p.json")


def test_where_every_row_counts_the_first_bad_one_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", GOOD, "{cut", GOOD)
    with pytest.raises(BadInput, match=r"p\.jsonl, row 2"):
        list(rows_of(path))
    assert [n for n, _ in rows_of(write_jsonl(path, GOOD, GOOD))] == [1, 2]


def test_csv_rows_of_another_width_and_other_encodings_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(b"id,question\n1,one?\n2,two?,more\n3,\xe9t\xe9?\n4,four?\n")
    assert read_pool(tmp_path / "p.csv").rows["id"].to_list() == ["1", "4"]
    assert [r[0] for r in reasons(tmp_path / "p.csv")] == [2, 3]


@pytest.mark.parametrize("text", ["", "\n\n", '{"a": 1}\n'])
def test_a_pool_without_a_usable_row_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(BadInput, match="No usable row"):
        read_pool(tmp_path / "p.jsonl")


def test_missing_files_unknown_kinds_and_wrong_mappings_are_named(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", GOOD)
    (tmp_path / "p.xlsx").write_text("")
    with pytest.raises(BadInput, match="no such file"):
        read_pool(tmp_path / "q.jsonl")
    with pytest.raises(BadInput, match="no such file or folder"):
        read_pool(tmp_path / "folder")
    with pytest.raises(BadInput, match="cannot tell the format"):
        read_pool(tmp_path / "p.xlsx")
    with pytest.raises(BadInput, match="no column 'topic'; it has: attempt"):
        read_pool(path, {"domain": "topic"})
    with pytest.raises(BadInput, match="'topic' is not a pool column"):
        read_pool(path, {"topic": "domain"})


def test_which_of_two_rows_with_one_id_stays_does_not_depend_on_their_order(tmp_path: Path) -> None:
    rows = [{**GOOD, "thinking": t} for t in ("b .", "a .", "c .")]
    kept = [read_pool(write_jsonl(tmp_path / "p.jsonl", *order)) for order in (rows, rows[::-1])]
    assert kept[0].rows.equals(kept[1].rows) and kept[0].rows["thinking"].to_list() == ["a ."]
    assert kept[0].rejects["reason"].to_list() == ["the id appears 3 times; one row was kept"] * 2


def test_ids_are_derived_from_question_and_trace_where_missing(tmp_path: Path) -> None:
    rows = [{"question": "q one", "thinking": t} for t in "ab"] + [{"question": "q two", "thinking": "a"}]
    pools = [read_pool(write_jsonl(tmp_path / "p.jsonl", *order)).rows for order in (rows, rows[::-1])]
    assert pools[0].height == 3 and pools[0].equals(pools[1])


def test_known_files_are_recognised_by_their_columns() -> None:
    dump = guess_columns(["id", "model", "question", "trace", "answer", "score", "trace_tokens_qwen2.5"])
    assert dump["attempt"] == "answer" and "answer" not in dump and dump["correct"] == "score"
    assert dump["trace_tokens"] == "trace_tokens_qwen2.5"
    s1k = guess_columns(
        ["solution", "question", "cot_type", "source_type", "thinking_trajectories", "attempt"]
    )
    assert (s1k["answer"], s1k["thinking"], s1k["source"]) == (
        "solution",
        "thinking_trajectories",
        "source_type",
    )
    both = [
        "solution",
        "question",
        "source_type",
        "gemini_thinking_trajectory",
        "gemini_attempt",
        "gemini_grade",
    ]
    assert guess_columns(both)["correct"] == "gemini_grade"
    newer = guess_columns([*both, "deepseek_thinking_trajectory", "deepseek_attempt", "deepseek_grade"])
    assert (newer["thinking"], newer["attempt"]) == ("deepseek_thinking_trajectory", "deepseek_attempt")
    assert newer["correct"] == "deepseek_grade"


def test_verdicts_are_words_booleans_or_a_full_score(tmp_path: Path) -> None:
    verdicts = {"Yes": True, "no": False, "": None, True: True, 0.5: False, 0: False, None: None}
    rows = [{**GOOD, "id": f"{i}", "correct": v} for i, v in enumerate(verdicts)]
    assert read_pool(write_jsonl(tmp_path / "p.jsonl", *rows)).rows["correct"].to_list() == [
        *verdicts.values()
    ]


def test_a_frame_without_question_or_with_repeated_ids_is_refused() -> None:
    with pytest.raises(BadInput, match="no column 'question'"):
        conform(pl.DataFrame({"id": ["a"]}))
    with pytest.raises(BadInput, match="same id"):
        conform(pl.DataFrame({"id": ["a", "a"], "question": ["x", "y"]}))


@pytest.mark.parametrize(
    ("file", "rows", "rejects"),
    [
        ("traces/misguided_attention.parquet", 1865, 159),
        ("s1k/s1k_questions.jsonl", 893, 107),
        ("s1k/s1k_release_problems_solutions.jsonl", 912, 88),
        ("traces/math_r1_small.jsonl", 10, 0),
        ("benchmarks/math500.jsonl", 500, 0),
        ("benchmarks/olympiadbench_oe_to_maths_en.jsonl.gz", 675, 0),
        ("sources/jeebench_dataset.json", 515, 0),
    ],
)
def test_real_files_are_read(shared_data: Path, file: str, rows: int, rejects: int) -> None:
    pool = read_pool(shared_data / file)
    assert (pool.rows.height, pool.rejects.height) == (rows, rejects)
