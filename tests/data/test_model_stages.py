from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from s1.clients.call_cache import CallCache
from s1.clients.chat import ApiSettings
from s1.data.attempts import EngineCaller
from s1.data.curate_settings import CurateSettings
from s1.data.model_stages import attempt_questions, name_domains
from s1.data.pipeline import run_stages
from s1.data.pool import Pool, pool_of_frame
from s1.engines import load_engine
from s1.errors import BadConfig, BadInput


def pool(**columns: Any) -> Pool:
    rows = {
        "id": ["a", "b", "c"],
        "question": ["one plus one", "sum of two", "a proof"],
        "answer": ["2", "4", None],
    }
    return pool_of_frame(pl.DataFrame({**rows, "source": ["s"] * 3, **columns}))


def test_attempts_of_two_models_are_graded_and_shared_out(chat: Any, tmp_path: Path) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        question = body["messages"][-1]["content"]
        right = body["model"] == "big" and "one" in question
        return {"content": r"\boxed{2}" if right or len(chat.bodies) % 2 else r"\boxed{9}"}

    chat.reply = reply
    big, small = (ApiSettings(url=chat.url, model=m, concurrency=1) for m in ("big", "small"))
    with CallCache(tmp_path / "journal.jsonl") as journal:
        result = attempt_questions(pool(attempt=["2", "5", "x"]), [big, small], None, journal, samples=4)
    attempts = result.tables["attempts.jsonl"]
    assert attempts.height == 3 * 2 * 4 and len(chat.bodies) == 24
    shares = (
        attempts.filter(pl.col("correct").is_not_null()).group_by("id", "model").agg(pl.col("correct").mean())
    )
    found = {(i, m): v for i, m, v in shares.iter_rows()}
    assert found == {("a", "big"): 1.0, ("a", "small"): 0.5, ("b", "big"): 0.0, ("b", "small"): 0.0}
    ledger = run_stages(result.pool, ["difficulty"])
    assert dict(ledger.rejected.select("id", "reason").iter_rows()) == {"a": "solved by big"}
    # The teacher's own answers are graded too.
    assert dict(result.pool.index.select("id", "correct").iter_rows()) == {"a": True, "b": False, "c": None}
    with CallCache(tmp_path / "journal.jsonl") as journal:
        again = attempt_questions(pool(), [small], None, journal, samples=4)
        kept = run_stages(again.pool, ["difficulty"], CurateSettings(most_solved=0.5)).kept
        assert kept["id"].to_list() == ["a", "b", "c"] and len(chat.bodies) == 24
        with pytest.raises(BadConfig, match="same name"):
            attempt_questions(pool(), [big, big], None, journal)


def test_an_engine_of_the_project_makes_attempts_too(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_text(json.dumps(["<think>hm</think>\\boxed{2}<|end|>"] * 3))
    caller = EngineCaller(load_engine(f"scripted:{tmp_path / 'script.json'}"), "scripted", max_tokens=90)
    with CallCache(tmp_path / "journal.jsonl") as journal:
        result = attempt_questions(pool(), [caller], None, journal)
        assert len(journal) == 3
    attempts = result.tables["attempts.jsonl"]
    assert attempts["answer"].to_list() == ["\\boxed{2}"] * 3
    assert attempts["correct"].to_list() == [True, False, None]


def test_domains_come_from_a_classifier_where_the_column_is_empty(
    chat: Any, says: Callable[..., Any], tmp_path: Path
) -> None:
    chat.reply = says({"one plus": "Counting.\n05", "two": "Hm.\n99"})
    rows = pool(domain=[None, None, "Geometry"])
    with CallCache(tmp_path / "journal.jsonl") as journal:
        result = name_domains(rows, ApiSettings(url=chat.url, model="m"), journal)
        assert name_domains(rows, None, journal).pool.index["domain"].null_count() == 2
        with pytest.raises(BadInput, match="domain"):
            name_domains(pool(), None, journal)
    assert dict(result.pool.index.select("id", "domain").iter_rows()) == {
        "a": "Combinatorics",
        "b": None,
        "c": "Geometry",
    }
    assert "1 rows have no domain" in result.notes[0] and len(chat.bodies) == 1 + 3
    assert "51 Geometry: triangles" in chat.bodies[0]["messages"][-1]["content"]
