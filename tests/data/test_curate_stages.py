from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from s1.cli import main
from s1.data.pool import read_pool

ROWS = [
    {"id": "a", "question": "What is the sum of the first ten odd numbers?", "thinking": "It is 100.", "attempt": "100",
     "answer": "100", "solved_x": 0.5, "trace_tokens": 3},
    {"id": "b", "question": "what is the sum of the first ten odd numbers", "thinking": "100 it is.", "attempt": "100",
     "answer": "100", "trace_tokens": 3},
    {"id": "c", "question": "one two three four five six seven eight nine", "thinking": "So 3.", "attempt": "4",
     "answer": "3", "domain": "Counting", "trace_tokens": 2},
    {"id": "d", "question": "Short?", "thinking": "this was cut in the", "attempt": "x"},
    {"id": "e", "question": None},
]  # fmt: skip


@pytest.fixture
def pool(tmp_path: Path) -> str:
    (tmp_path / "pool.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ROWS))
    return str(tmp_path / "pool.jsonl")


def ids(folder: Path) -> list[str]:
    return read_pool(folder).rows["id"].to_list()


def rejected(folder: Path) -> dict[str, tuple[str, str]]:
    rows = [json.loads(line) for line in (folder / "rejected.jsonl").open()]
    return {r["id"]: (r["stage"], r["reason"]) for r in rows}


@pytest.mark.parametrize("profile", ["strict", "official"])
def test_stages_one_after_another_keep_the_rows_of_the_whole_pipeline(tmp_path: Path, profile: str) -> None:
    hit = "the secret test question of this little world here"
    rows = [
        {
            "id": f"r{i:02d}", "question": f"Part {i}. {hit}" if i % 3 == 0 else f"question number {i} is this?",
            "source": "AIME" if i % 2 else "other", "domain": f"d{i % 4}", "thinking": f"step {i} and so {i} .",
            "attempt": str(i), "answer": str(i), "correct": i % 5 != 0, "trace_tokens": 5 + i * 37 % 50,
            "solved_small": float(i == 4),
        }
        for i in range(60)
    ]  # fmt: skip
    pool, bench = tmp_path / "pool.jsonl", tmp_path / "bench.jsonl"
    pool.write_text("".join(json.dumps(r) + "\n" for r in rows))
    bench.write_text(json.dumps({"id": "1", "question": hit}) + "\n")
    options = ["--workers", "1", "--set", f"profile={profile}", "--set", "domain_weights={d1: 1.0}"]
    whole = ["curate", str(pool), "--out", str(tmp_path / "whole"), "--n", "10", "--against", str(bench)]
    assert main([*whole, *options]) == 0
    ledger = json.loads((tmp_path / "whole" / "ledger.json").read_text())
    at = pool
    for stage in ledger["stages"][1:]:
        command = ["curate", stage["name"], str(at), "--out", str(tmp_path / stage["name"])]
        command += {"difficulty": options[:2], "decontaminate": [*options, "--against", str(bench)],
                    "select": [*options, "--n", "10"]}.get(stage["name"], options)  # fmt: skip
        assert main(command) == 0
        at = tmp_path / stage["name"]
        alone = json.loads((at / "stage.json").read_text())["stages"][-1]
        assert alone == stage
    order = [
        pl.read_parquet(f)["id"].to_list() for f in (at / "pool.parquet", tmp_path / "whole/dataset.parquet")
    ]
    assert order[0] == order[1] and len(order[0]) == 10


def test_stages_read_each_others_folders(pool: str, tmp_path: Path) -> None:
    assert main(["curate", "clean", pool, "--out", str(tmp_path / "1")]) == 0
    assert ids(tmp_path / "1") == ["a", "b", "c"]
    assert rejected(tmp_path / "1") == {
        "d": ("clean", "cut trace"),
        "e": ("reading", "the question is null or blank"),
    }
    assert main(["curate", "difficulty", str(tmp_path / "1"), "--out", str(tmp_path / "2")]) == 0
    assert rejected(tmp_path / "2") == {"a": ("difficulty", "solved by x")}
    graded = read_pool(tmp_path / "2").rows.select("id", "correct").rows()
    assert graded == [("b", True), ("c", False)]  # the teacher's answers, by symbols
    assert main(["curate", "diversity", str(tmp_path / "2"), "--out", str(tmp_path / "3")]) == 0
    assert (
        main(
            ["curate", "select", str(tmp_path / "3"), "--n", "1", "--seed", "3", "--out", str(tmp_path / "4")]
        )
        == 0
    )
    assert len(ids(tmp_path / "4")) == 1
    stage = json.loads((tmp_path / "4" / "stage.json").read_text())
    assert [(s["name"], s["in"], s["out"]) for s in stage["stages"]] == [("reading", 2, 2), ("select", 2, 1)]
    assert stage["settings"]["seed"] == 3


def test_a_stage_gives_the_same_with_and_without_the_index_beside_its_pool(pool: str, tmp_path: Path) -> None:
    clean, found = tmp_path / "clean", {}
    assert main(["curate", "clean", pool, "--out", str(clean)]) == 0
    for name in ("with", "damaged", "without"):
        if name == "damaged":
            (clean / "pool.index").write_bytes(b"PAR1 and nothing more")
        elif name == "without":
            (clean / "pool.index").unlink()
        out = tmp_path / name
        assert main(["curate", "difficulty", str(clean), "--out", str(out)]) == 0
        index = pl.read_parquet(out / "pool.index").drop("_state")
        found[name] = [
            index,
            *((out / f).read_bytes() for f in ("pool.parquet", "rejected.jsonl", "stage.json")),
        ]
    for name in ("damaged", "without"):
        assert found[name][0].equals(found["with"][0]) and found[name][1:] == found["with"][1:]


def test_a_stage_reads_the_index_instead_of_the_texts(pool: str, tmp_path: Path) -> None:
    clean, out = tmp_path / "clean", tmp_path / "out"
    assert main(["curate", "clean", pool, "--out", str(clean)]) == 0
    index = pl.read_parquet(clean / "pool.index").with_columns(solved_x=1.0)
    index.write_parquet(clean / "pool.index")
    assert main(["curate", "difficulty", str(clean), "--out", str(out)]) == 0
    assert set(rejected(out)) == set(index["id"])


def test_a_file_that_is_not_an_index_is_passed_over(pool: str, tmp_path: Path) -> None:
    clean, out = tmp_path / "clean", tmp_path / "out"
    assert main(["curate", "clean", pool, "--out", str(clean)]) == 0
    pl.DataFrame({"id": ["a"]}).write_parquet(clean / "pool.index")
    assert main(["curate", "difficulty", str(clean), "--out", str(out)]) == 0


def test_a_pool_that_was_edited_is_read_again(pool: str, tmp_path: Path) -> None:
    clean, out = tmp_path / "clean", tmp_path / "out"
    assert main(["curate", "clean", pool, "--out", str(clean)]) == 0
    rows = pl.read_parquet(clean / "pool.parquet").with_columns(
        pl.col("question").str.to_uppercase(), solved_x=0.0
    )
    rows.write_parquet(clean / "pool.parquet")
    assert main(["curate", "difficulty", str(clean), "--out", str(out)]) == 0
    kept = read_pool(out).rows
    assert kept["question"].to_list() == rows["question"].to_list()
    assert kept["solved_x"].to_list() == [0.0] * rows.height


def test_decontaminate_prints_and_writes_every_hit(
    pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = [
        {"id": "t1", "problem": "Zero one TWO three four five six seven eight"},
        {"id": "t2", "problem": "short?"},
    ]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(r) + "\n" for r in bench))
    command = [
        "curate",
        "decontaminate",
        pool,
        "--against",
        str(tmp_path / "bench.jsonl"),
        "--set",
        "near=0.8",
    ]
    assert main(command) == 0  # without --out it only prints
    printed = capsys.readouterr().out
    for part in (
        "c = bench t1 (8-gram)\n  shared: one two three four five six seven eight",
        "ours:   one two three four five six seven eight nine",
        "theirs: Zero one TWO three four five six seven eight",
        "d = bench t2 (exact)",
        "a ~ b (near duplicate, 1.00)",
    ):
        assert part in printed
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    hits = {h["id"]: h for h in map(json.loads, (tmp_path / "out" / "hits.jsonl").open())}
    assert (
        hits["c"]["benchmark_id"] == "t1" and hits["c"]["shared"] == "one two three four five six seven eight"
    )
    assert hits["c"]["benchmark_question"].startswith("Zero") and hits["d"]["how"] == "exact"
    (near,) = map(json.loads, (tmp_path / "out" / "near.jsonl").open())
    assert (near["id"], near["other_id"], near["similarity"]) == ("a", "b", 1.0)
    fates = rejected(tmp_path / "out")
    assert fates["b"] == ("decontaminate", "near duplicate of a") and fates["c"][1] == "8-gram of bench"
    assert ids(tmp_path / "out") == ["a"]


def test_models_attempt_classify_and_judge_from_the_command_line(
    chat: Any, pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(body: dict[str, Any]) -> dict[str, Any]:
        system = body["messages"][0]["content"] if body["messages"][0]["role"] == "system" else ""
        if "subjects" in system:
            return {"content": "Sums.\n11"}
        if "reference" in system:
            return {"content": "Fine.\nYes"}
        return {"content": "\\boxed{3}" if body["model"] == "strong" else "I do not know"}

    chat.reply = reply
    out = tmp_path / "out"
    command = ["curate", "difficulty", pool, "--out", str(out), "--model", "strong", "--url", chat.url,
               "--model", f"weak@{chat.url}", "--judge", f"judge@{chat.url}", "--samples", "2",
               "--most-solved", "0.5", "--set", "max_tokens=100"]  # fmt: skip
    assert main(command) == 0
    assert rejected(out)["c"] == ("difficulty", "solved by strong")
    rows = read_pool(out).rows
    assert {"solved_strong", "solved_weak"} <= set(rows.columns)
    asked = len(chat.bodies)
    assert main(command) == 0 and len(chat.bodies) == asked
    assert (
        main(
            ["curate", "diversity", str(out), "--out", str(tmp_path / "d"), "--model", "m", "--url", chat.url]
        )
        == 0
    )
    assert set(read_pool(tmp_path / "d").rows["domain"]) == {"Number theory"}
    assert "1 domains; the largest: Number theory" in capsys.readouterr().err


def test_collect_lists_and_joins_sources(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curate", "collect"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 16
    (tmp_path / "mine.yaml").write_text("mine: {columns: {question: question}}\n")
    (tmp_path / "rows.jsonl").write_text('{"question": "q"}\n{"question": null}\n')
    folder = shared_data / "sources"
    sources = [f"jeebench={folder / 'jeebench_dataset.json'}", f"mine={tmp_path / 'rows.jsonl'}"]
    out = tmp_path / "out"
    assert (
        main(["curate", "collect", *sources, "--sources", str(tmp_path / "mine.yaml"), "--out", str(out)])
        == 0
    )
    rows = pl.read_parquet(out / "pool.parquet")
    assert rows.height == 516 and "mine" in rows["source"].to_list()
    assert [s for s, _ in rejected(out).values()] == ["reading"]


CASES = {
    "curate clean takes no --n": ["clean", "POOL", "--out", "OUT", "--n", "3"],
    "curate takes no --judge": ["POOL", "--out", "OUT", "--judge", "m"],
    "needs --out": ["clean", "POOL"],
    "no pool was named": ["select", "--out", "OUT"],
    "needs one teacher": ["teach", "POOL", "--out", "OUT", "--url", "http://localhost:1/v1"],
    "is not an address": ["teach", "POOL", "--out", "OUT", "--url", "localhost:1", "--model", "m"],
    "needs prices": ["teach", "POOL", "--out", "OUT", "--url", "http://x/v1", "--model", "m", "--max-usd", "1"],
    "No source is named 'maths'": ["collect", "maths", "--out", "OUT"],
    "did you mean 'temperature'": ["teach", "POOL", "--out", "OUT", "--model", "m", "--set", "temprature=1"],
    "holds other files": ["clean", "POOL", "--out", "."],
}  # fmt: skip


@pytest.mark.parametrize("said", CASES)
def test_a_mistake_is_one_line(
    said: str, pool: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [{"POOL": pool, "OUT": str(tmp_path / "out")}.get(a, a) for a in CASES[said]]
    assert main(["curate", *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert said in line and "Traceback" not in line
    assert not (tmp_path / "out" / "stage.json").exists()


def test_a_folder_of_another_stage_is_left_alone(
    pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["curate", "clean", pool, "--out", out]) == 0
    before = (tmp_path / "out" / "stage.json").read_bytes()
    assert main(["curate", "select", pool, "--out", out]) == 2
    assert "another stage (clean)" in capsys.readouterr().err
    assert (tmp_path / "out" / "stage.json").read_bytes() == before


def test_the_funnel_drops_near_duplicates_when_asked_and_draws_itself(pool: str, tmp_path: Path) -> None:
    for name, near in (("off", "0"), ("on", "0.8")):
        command = ["curate", pool, "--out", str(tmp_path / name), "--n", "9", "--set", f"near={near}"]
        assert main([*command, "--set", "most_solved=1"]) == 0
    assert ids(tmp_path / "off") == ["a", "b", "c"] and ids(tmp_path / "on") == ["a", "c"]
    assert (tmp_path / "on" / "near.jsonl").read_text().count("\n") == 1
    ledger = json.loads((tmp_path / "on" / "ledger.json").read_text())
    assert ledger["stages"][3]["dropped"] == {"near duplicate": 1}
    picture = (tmp_path / "on" / "funnel.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and picture != (tmp_path / "off" / "funnel.png").read_bytes()
