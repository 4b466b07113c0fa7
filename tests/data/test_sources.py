from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from s1.data.ledger import card
from s1.data.pool import pool_of_frame
from s1.data.sources import Source, licences, load_source, read_sources
from s1.errors import BadConfig, BadInput

SOURCES = read_sources()

# What s1K has as source_type for rows of each source, in the notebook's print-out.
REAL = {
    "math": ("math_test_sample.jsonl", 300, r"qfq/openaimath/[A-Z].*"),
    "aime": ("aime_1983_2023_sample.jsonl", 277, r"qq8933/AIME_1983_2024"),
    "omnimath": ("omni_math_sample.jsonl", 300, r"KbsdJames/Omni-MATH"),
    "theoremqa": ("theoremqa_test.json", 747, r"TIGER-Lab/TheoremQA/(float|integer|bool|option|list of .*)"),
    "jeebench": ("jeebench_dataset.json", 515, r"daman1209arora/jeebench/(chem|phy|math)"),
    "agieval": ("agieval", 1205, r"baber/agieval/\w+"),
}

# One row of each other source in its documented columns: (row, question, answer, source, cot_type).
DOCUMENTED: dict[str, tuple[dict[str, Any], str, str | None, str, str]] = {
    "numinamath": (
        {"source": "aops_forum", "problem": "P", "solution": "S", "messages": [{"role": "user"}]},
        "P", "S", "AI-MO/NuminaMath-CoT/aops_forum", "math",
    ),
    "olympicarena": (
        {"id": "Math_1", "problem": "P", "solution": "S", "answer": None, "subject": "Astronomy", "language": "EN",
         "modality": "text-only"},
        "P", "S", "GAIR/OlympicArena/Astronomy", "science",
    ),
    "xword": (
        {"instruction": "i", "input": "### Instruction: x ### Clue: Notice (8,4)", "output": "INCIDENT ROOM"},
        "Solve the crossword puzzle. You are presented with a clue as input and the number of letters in "
        "brackets.\n\nNotice (8,4)",
        "INCIDENT ROOM", "0xharib/xword1", "crossword",
    ),
    "olympiadbench": (
        {"question": "Q", "solution": ["long", "other"], "final_answer": ["2", "3"], "context": None,
         "question_type": "Open-ended", "subject": "Physics"},
        "Q", "2, 3", "Hothan/OlympiadBench/Open-ended/Physics", "math",
    ),
    "usaco": ({"question": " Q\n"}, " Q\n", None, "codegenning/usacobench_formatted", "coding"),
    "scieval": (
        {"question": "Reagents.\nOptimal solvent:\n\nAnswer:", "answer": "['CO']", "category": "chemistry",
         "topic": None, "ability": "x", "type": "filling", "task_name": "reagent selection"},
        "Reagents.\nWhat is the optimal solvent?", "CO", "OpenDFM/SciEval/chemistry/filling/reagent selection",
        "science",
    ),
    "s1-prob": ({"question": "Q", "solution": "S"}, "Q", "S", "qfq/stats_qual", "math"),
    "livecodebench": (
        {"question_content": "Q", "difficulty": "hard"}, "Q", None, "LiveCodeBench/release_v3", "coding",
    ),
    "s1-teasers": ({"Question": "Q", "Answer": "A"}, "Q", "A", "qfq/quant", "math"),
}  # fmt: skip


def file_of(tmp_path: Path, rows: Iterable[dict[str, Any]], name: str = "rows.jsonl") -> Path:
    path = tmp_path / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_the_sixteen_sources_of_the_paper_are_described() -> None:
    assert len(SOURCES) == 16 and sum(s.paper or 0 for s in SOURCES.values()) == 59_029
    assert set(REAL) | set(DOCUMENTED) | {"gpqa"} == set(SOURCES)
    assert all(s.hub and s.licence and s.cot_type for s in SOURCES.values())


@pytest.mark.parametrize("name", REAL)
def test_real_rows_are_read(shared_data: Path, name: str) -> None:
    file, count, names = REAL[name]
    pool = load_source(SOURCES[name], shared_data / "sources" / file)
    assert pool.rows.height == count
    assert pool.rows["source"].str.contains(f"^(?:{names})$").all()
    assert pool.rows["answer"].null_count() == 0 and pool.rows["cot_type"].null_count() == 0
    assert set(pool.rejects["source"]) <= {name}


def test_filters_of_the_paper_hold_on_real_rows(shared_data: Path) -> None:
    folder = shared_data / "sources"
    with_options = load_source(SOURCES["agieval"], folder / "agieval" / "aqua-rat.jsonl").rows
    assert with_options["question"].str.contains(r"\n\(A\).*\n\(B\)").all()
    assert with_options["answer"].str.contains("^[A-E]$").all()
    passage = load_source(SOURCES["agieval"], folder / "agieval" / "lsat-ar.jsonl").rows
    assert passage["question"].str.contains(r"(?s)^\w.{100,}\n\n.*\n\(A\)").all()
    hard = load_source(SOURCES["agieval"], folder / "agieval" / "math.jsonl").rows
    levels = [json.loads(line)["other"]["level"] for line in (folder / "agieval" / "math.jsonl").open()]
    assert hard.height == levels.count(5) and 0 < hard.height < len(levels)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_columns_are_read(tmp_path: Path, name: str) -> None:
    row, question, answer, source, kind = DOCUMENTED[name]
    (found,) = load_source(SOURCES[name], file_of(tmp_path, [row])).rows.to_dicts()
    assert (found["question"], found["answer"], found["source"], found["cot_type"]) == (
        question,
        answer,
        source,
        kind,
    )


def test_rows_that_the_filter_excludes_are_left_out(tmp_path: Path) -> None:
    hard, easy = (
        {"question_content": "Q", "difficulty": "hard"},
        {"question_content": "E", "difficulty": "easy"},
    )
    assert load_source(SOURCES["livecodebench"], file_of(tmp_path, [hard, easy])).rows[
        "question"
    ].to_list() == ["Q"]
    with pytest.raises(BadInput, match="no row passes"):
        load_source(SOURCES["livecodebench"], file_of(tmp_path, [easy]))
    with pytest.raises(BadInput, match="no column question_content"):
        load_source(SOURCES["livecodebench"], file_of(tmp_path, [{"text": "Q", "difficulty": "hard"}]))


GPQA = {"Question": "Which?", "Correct Answer": " right ", "Incorrect Answer 1": "w1", "Incorrect Answer 2": "w2",
        "Incorrect Answer 3": "w3", "Explanation": "e", "High-level domain": "Physics"}  # fmt: skip


def test_choices_are_shuffled_by_the_seed_and_the_letter_follows(tmp_path: Path) -> None:
    path = file_of(tmp_path, [GPQA])
    letters = set()
    for seed in range(20):
        row = load_source(SOURCES["gpqa"], path, seed=seed).rows.row(0, named=True)
        assert row["question"].startswith("Which?\n\n(A) ") and row["question"].count("\n(") == 4
        assert f"({row['answer']}) right" in row["question"]
        letters.add(row["answer"])
        assert row == load_source(SOURCES["gpqa"], path, seed=seed).rows.row(0, named=True)
    assert letters == set("ABCD")


def test_a_sample_is_seeded_even_over_groups_and_free_of_order(tmp_path: Path) -> None:
    rows = [{"q": f"question {i}", "kind": "rare" if i < 8 else "common"} for i in range(100)]
    source = Source("mine", {"question": "q"}, sample=20, stratify=("kind",))
    chosen = load_source(source, file_of(tmp_path, rows)).rows
    random.Random(1).shuffle(rows)
    again = load_source(source, file_of(tmp_path, rows)).rows
    assert chosen.height == 20 and chosen.equals(again)
    assert sum(int(q.split()[1]) < 8 for q in chosen["question"]) == 8
    assert not chosen.equals(load_source(source, file_of(tmp_path, rows), seed=1).rows)
    assert load_source(replace(source, sample=500), file_of(tmp_path, rows)).rows.height == 100


def test_a_source_of_ones_own_takes_a_few_lines(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "riddles:\n"
        "  columns: {question: '{intro} {text}', answer: result.short}\n"
        "  where: {year: {at_least: 2000}, kind: [a, null], text: {matches: 'x+'}}\n"
        "  source: riddles/{kind}\n"
        "  licence: CC0-1.0\n"
    )
    (source,) = read_sources(tmp_path / "mine.yaml").values()
    rows = [
        {"intro": "Hm", "text": "xx", "result": {"short": 3}, "year": "2001", "kind": "a"},
        {"intro": None, "text": "x", "result": {}, "year": 2002},
        {"intro": "Hm", "text": "x", "year": 1999, "kind": "a"},
        {"intro": "Hm", "text": "x", "year": None, "kind": "a"},
        {"intro": "Hm", "text": "x", "year": 2001, "kind": "b"},
        {"intro": "Hm", "text": "y", "year": 2001, "kind": "a"},
    ]
    found = (
        load_source(source, file_of(tmp_path, rows))
        .rows.sort("question")
        .select("question", "answer", "source")
    )
    assert found.rows() == [("Hm xx", "3", "riddles/a"), ("x", None, "riddles/")]
    assert licences(["riddles/a", "AI-MO/NuminaMath-CoT/olympiads", "?"], {**SOURCES, "riddles": source}) == {
        "riddles/a": "CC0-1.0", "AI-MO/NuminaMath-CoT/olympiads": "Apache-2.0", "?": "not stated"}  # fmt: skip


def hashed(question: str) -> str:
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def test_a_keep_file_adds_rows_to_what_filter_and_sample_choose(tmp_path: Path) -> None:
    rows = [{"q": f"question {i}", "kind": "a" if i < 40 else "b", "number": i} for i in range(50)]
    path = file_of(tmp_path, rows)
    (tmp_path / "keep.txt").write_text(
        f"{hashed('question 45')}\n\n{hashed('question 3')}\n{hashed('gone')}\n"
    )
    (tmp_path / "by_no.jsonl").write_text('{"number": 41}\n{"number": 49}\n')
    (tmp_path / "s.yaml").write_text(
        "base: &base\n  columns: {question: q}\n  where: {kind: a}\n  sample: 5\n"
        "listed: {<<: *base, keep: {file: keep.txt}}\n"
        "alone: {<<: *base, sample: 0, keep: {file: by_no.jsonl, by: number}}\n"
    )
    known = read_sources(tmp_path / "s.yaml")
    base = set(load_source(known["base"], path).rows["question"])
    listed = set(load_source(known["listed"], path).rows["question"])
    assert len(base) == 5 and {"question 45", "question 3"} <= listed and len(listed) == 5 + 2
    assert len(base & listed) >= 4  # only question 3 can have been in the sample too
    assert set(load_source(known["alone"], path).rows["question"]) == {"question 41", "question 49"}


def test_the_questions_of_s1k_are_found_by_their_hashes(shared_data: Path) -> None:
    mine = replace(
        SOURCES["theoremqa"],
        sample=0,
        keep={"file": str(shared_data / "s1k/s1k_questions.jsonl")},
    )
    found = load_source(mine, shared_data / "sources/theoremqa_test.json").rows
    lines = (shared_data / "s1k/s1k_questions.jsonl").read_text().splitlines()
    chosen = {r["question"] for r in map(json.loads, lines) if r["source_type"].startswith("TIGER-Lab")}
    assert set(found["question"]) == chosen and found.height >= 20


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("{file: none.txt}", "keep file .*none.txt is missing"),
        ("{file: empty.txt}", "lists nothing"),
        ("{file: other.jsonl}", "has no column 'question_hash'"),
        ("{file: wrong.txt}", "has none of the 1 rows"),
        ("{path: wrong.txt}", "keep is"),
        ("{file: wrong.txt, by: no}", "keep is"),
    ],
)
def test_a_keep_file_that_cannot_be_used_is_named(tmp_path: Path, keep: str, said: str) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "wrong.txt").write_text("0123456789abcdef\n")
    (tmp_path / "other.jsonl").write_text('{"no": 41}\n')
    (tmp_path / "s.yaml").write_text(f"mine:\n  columns: {{question: q}}\n  keep: {keep}\n")
    with pytest.raises((BadConfig, BadInput), match=said):
        load_source(read_sources(tmp_path / "s.yaml")["mine"], file_of(tmp_path, [{"q": "x"}]))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine:\n  columns: {answer: a}\n", "no question column"),
        ("mine:\n  columns: {question: a, colour: b}\n", "unknown column 'colour'"),
        ("mine:\n  columns: {question: a}\n  wher: {}\n", "unknown field 'wher'"),
        ("mine:\n  columns: {question: a}\n  where: {y: {below: 3}}\n", "the condition on y"),
        ("mine:\n  columns: {question: a}\n  sample: 0\n", "sample is 0"),
        ("mine:\n  columns: {question: a}\n  prepare: nothing\n", "no function is named 'nothing'"),
        ("mine: 3\n", "expected NAME"),
        ("{", "not YAML"),
    ],
)
def test_a_mistake_in_a_description_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(BadConfig, match=said):
        read_sources(tmp_path / "s.yaml")


class Hub:
    """`datasets.load_dataset` with a few sets at hand; anything else is not there."""

    def __init__(self, sets: dict[tuple[str, str | None, str], list[dict[str, Any]]]) -> None:
        self.sets = sets

    def __call__(self, hub: str, config: str | None = None, *, split: str, **rest: Any) -> Any:
        from datasets import Dataset
        from datasets.exceptions import DatasetNotFoundError

        if (hub, config, split) not in self.sets:
            raise DatasetNotFoundError(f"Dataset {hub!r} is gated.\nmore")
        return Dataset.from_list(self.sets[hub, config, split])


def test_the_hub_is_read_by_config_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**GPQA, "Question": "Diamond?"}
    sets = {
        ("Idavidrein/gpqa", "gpqa_extended", "train"): [GPQA, other],
        ("Idavidrein/gpqa", "gpqa_diamond", "train"): [other],
    }
    monkeypatch.setattr("datasets.load_dataset", Hub(sets))
    (row,) = load_source(SOURCES["gpqa"]).rows.to_dicts()
    assert row["question"].startswith("Which?")
    monkeypatch.setattr("datasets.load_dataset", Hub({}))
    with pytest.raises(BadInput, match="is gated") as caught:
        load_source(SOURCES["gpqa"])
    assert "Accept its terms" in caught.value.hint and "hf auth login" in caught.value.hint


def test_the_card_names_the_licence_of_each_source() -> None:
    from s1.data.curate_settings import CurateSettings
    from s1.data.pipeline import curate

    rows = [{"id": f"r{i}", "question": f"q {i}", "thinking": "It is so.", "attempt": "1", "trace_tokens": 4,
             "source": "daman1209arora/jeebench/phy" if i else "elsewhere"} for i in range(3)]  # fmt: skip
    text = card(curate(pool_of_frame(pl.DataFrame(rows)), CurateSettings(n=3)))
    assert "| daman1209arora/jeebench/phy | 2 | MIT |" in text and "| elsewhere | 1 | not stated |" in text
    assert text.startswith("---\nlicense: other\n")
