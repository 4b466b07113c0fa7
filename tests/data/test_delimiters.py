from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.data.pool import read_pool
from s1.data.read_traces import read_traces
from s1.errors import BadInput
from s1.formats import FORMATS, without_delimiters


@pytest.mark.parametrize(
    ("thinking", "answer", "expected"),
    [
        ("so 4", "4", ("so 4", "4")),
        (None, None, (None, None)),
        ("so 4", "</think>\n\n7", ("so 4", "7")),
        ("<think>\nso 4\n</think>", "4", ("so 4", "4")),
        ("<think>so 4", "4", ("so 4", "4")),
        ("so 4</think>", "4<|im_end|>", ("so 4", "4")),
        ("<think>so 4</think>It is 4.", None, ("so 4", "It is 4.")),
        ("<think>so 4</think>\n\nIt is 4.", "It is 4.", ("so 4", "It is 4.")),
        (None, "<THINK>so 4</THINK>4", ("so 4", "4")),
        ("", "so 4</think>4", ("so 4", "4")),
        ("so 4", "<think>so 4</think>4", ("so 4", "4")),
        (None, "[THINK]so 4[/THINK]4", ("so 4", "4")),
        (
            None,
            "<|begin_of_thought|>so 4<|end_of_thought|>\n<|begin_of_solution|>4<|end_of_solution|>",
            ("so 4", "4"),
        ),
    ],
)
def test_a_text_is_split_where_it_is_clear_what_is_meant(thinking: Any, answer: Any, expected: Any) -> None:
    assert without_delimiters(thinking, answer) == expected


@pytest.mark.parametrize(
    ("thinking", "answer"),
    [
        ("a <think>b</think> c", "4"),
        ("<think>a</think>b<think>c</think>", "4"),
        ("a</think>b</think>c", ""),
        ("a", "rest of it</think>4"),
        ("a <|im_start|>user", "4"),
        ("so 4</think>It is 4.", "It is 5."),
        ("so 4", "4 <think>"),
    ],
)
def test_any_other_delimiter_is_refused(thinking: str, answer: str) -> None:
    with pytest.raises(BadInput):
        without_delimiters(thinking, answer)


@given(st.sampled_from(list(FORMATS.values())), st.text("ab \n", min_size=1), st.text("cd \n", min_size=1))
def test_what_a_format_joins_is_taken_apart(fmt: Any, thinking: str, answer: str) -> None:
    joined = fmt.open + thinking + fmt.close + answer
    assert without_delimiters(None, joined) == (thinking.strip(), answer.strip())
    assert without_delimiters(joined, None) == (thinking.strip(), answer.strip()) or not thinking.strip()


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_curate_and_train_read_the_same_split_row(tmp_path: Path) -> None:
    good = {"id": "a", "question": "2 + 2?", "thinking": "<think>so 4</think>", "attempt": "</think>4"}
    pool = read_pool(write(tmp_path / "p.jsonl", good, {**good, "id": "b", "thinking": "x <think> y"}))
    assert pool.rows.select("thinking", "attempt").rows() == [("so 4", "4")]
    assert (
        pool.rejects.select("row", "field").rows() == [(2, "thinking")]
        and "<think>" in pool.rejects["reason"][0]
    )
    pool.rows.write_parquet(tmp_path / "q.parquet")
    assert read_pool(tmp_path / "q.parquet").rows.equals(pool.rows)
    (trace,) = read_traces(write(tmp_path / "t.jsonl", good))
    assert (trace.thinking, trace.answer) == ("so 4", "4")


def chat(
    *messages: tuple[str, Any], role: str = "role", content: str = "content", **more: Any
) -> dict[str, Any]:
    return {
        "messages" if role == "role" else "conversations": [
            {role: r, content: c, **more} for r, c in messages
        ]
    }


@pytest.mark.parametrize(
    "row",
    [
        chat(("user", "2 + 2?"), ("assistant", "<think>so 4</think>4")),
        chat(("system", "Think."), ("user", "2 + 2?"), ("assistant", "so 4</think>\n4")),
        chat(("human", "2 + 2?"), ("gpt", "<think>so 4</think>4"), role="from", content="value"),
        {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4", "reasoning_content": "so 4"}]},  # noqa: E501
        {"messages": json.dumps(chat(("user", "2 + 2?"), ("assistant", "<think>so 4</think>4"))["messages"])},
        {"question": "2 + 2?", **chat(("user", "2 + 2?"), ("assistant", "<think>so 4</think>4"))},
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_of_messages_is_read(tmp_path: Path, row: dict[str, Any], kind: str) -> None:
    import polars as pl

    path = write(tmp_path / "p.jsonl", row)
    if kind == "parquet":
        path = tmp_path / "p.parquet"
        pl.DataFrame([row]).write_parquet(path)
    assert read_pool(path).rows.select("question", "thinking", "attempt").rows() == [("2 + 2?", "so 4", "4")]


def test_messages_without_thinking_do_not_replace_the_columns(tmp_path: Path) -> None:
    row = {"problem": "2 + 2?", "solution": "4", **chat(("user", "2 + 2?"), ("assistant", "4"))}
    found = read_pool(write(tmp_path / "p.jsonl", row)).rows
    assert found.select("question", "answer", "thinking", "attempt").rows() == [("2 + 2?", "4", None, None)]


@pytest.mark.parametrize(
    "row",
    [
        chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
        chat(("user", "a")),
        {"messages": ["a", "b"]},
        {"messages": "not JSON"},
        chat(("user", "a"), ("assistant", "b <think>c</think> d</think>")),
    ],
)
def test_other_conversations_are_rejected_with_the_reason(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"question": "2 + 2?"}
    rejects = read_pool(write(tmp_path / "p.jsonl", good, row)).rejects
    assert rejects.select("row", "field").rows() == [(2, "messages")]


@pytest.mark.parametrize(
    "answer", [float("nan"), float("inf"), [3, None, "4"], [[1], [2, [None]]], [float("nan")]]
)
def test_an_answer_that_is_none_is_rejected(tmp_path: Path, answer: Any) -> None:
    pool = read_pool(
        write(tmp_path / "p.jsonl", {"question": "a", "answer": 3}, {"question": "b", "answer": answer})
    )
    assert pool.rows["answer"].to_list() == ["3"]
    assert pool.rejects.select("row", "field").rows() == [(2, "answer")]


def test_a_row_above_the_limit_is_refused_with_file_and_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from s1.data import read_files

    monkeypatch.setattr(read_files, "MAX_ROW", 1000)
    rows = [{"question": "a"}, {"question": "b" * 5000}, {"question": "c"}]
    path = write(tmp_path / "p.jsonl", *rows)
    assert [(n, type(r) is dict) for n, r in read_files.raw_rows(path)] == [(1, True), (2, False), (3, True)]
    pieces = [row for split in read_files.splits(path, 20) for row in read_files.split_rows(split)]
    assert [(n, type(r) is dict) for n, r in pieces] == [(1, True), (2, False), (3, True)]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    assert [type(r) is dict for _, r in read_files.raw_rows(tmp_path / "p.json")] == [True, False, True]
    (tmp_path / "p.csv").write_text("question\na\n" + "b" * 5000 + "\nc\n")
    assert [type(r) is dict for _, r in read_files.raw_rows(tmp_path / "p.csv")].count(False) == 1
    with pytest.raises(BadInput, match="row 2"):
        list(read_files.rows_of(path))
