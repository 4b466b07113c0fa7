from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.data.decontaminate import benchmark_frame, duplicate_reasons, find_hits, hit_reasons, read_benchmarks
from s1.data.pipeline import run_stages
from s1.data.pool import Pool, pool_of_frame, read_pool
from s1.errors import BadInput

texts = st.lists(st.text(alphabet="aAbß İ\t\n\u00a0\x1f.", max_size=14), min_size=1, max_size=4)


def frames(ours: list[str], theirs: list[str]) -> tuple[Pool, pl.DataFrame]:
    pool = pool_of_frame(pl.DataFrame({"id": [f"p{i}" for i in range(len(ours))], "question": ours}))
    return pool, benchmark_frame("bench", [f"b{i}" for i in range(len(theirs))], theirs)


def naive_ngrams(text: str, n: int) -> set[str]:
    words = text.lower().split()
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


@settings(deadline=None, max_examples=60)
@given(texts, texts, st.integers(1, 4))
def test_hits_are_those_of_a_naive_matcher(ours: list[str], theirs: list[str], n: int) -> None:
    pool, bench = frames(ours, theirs)
    hits = find_hits(pool, pool.index, bench, n=n, profile="official")
    expected = {}
    for i, mine in enumerate(ours):
        for j, other in enumerate(theirs):
            shared = naive_ngrams(mine, n) & naive_ngrams(other, n)
            exact = mine.lower().split() == other.lower().split()
            if shared or exact:
                expected[f"p{i}", f"b{j}"] = ("exact" if exact else f"{n}-gram", len(shared))
    found = {(r["id"], r["benchmark_id"]): (r["how"], r["count"]) for r in hits.to_dicts()}
    assert found == expected
    for row in hits.filter(pl.col("count") > 0).to_dicts():
        both = naive_ngrams(row["question"], n) & naive_ngrams(row["benchmark_question"], n)
        assert row["shared"] in both


def test_seven_words_in_common_are_not_a_hit_and_eight_are() -> None:
    ours = ["one two three four five six seven x", "Y one Two three\nfour five six seven EIGHT"]
    pool, bench = frames(ours, ["so one two three four five six seven eight it is"])
    (hit,) = find_hits(pool, pool.index, bench).to_dicts()
    assert hit["id"] == "p1" and hit["shared"] == "one two three four five six seven eight"
    assert hit_reasons(pool.index, find_hits(pool, pool.index, bench)).to_list() == [None, "8-gram of bench"]


def test_short_questions_match_exactly_and_only_so_when_n_is_zero() -> None:
    ours = ["What is  2 + 2?", "one two three four five six seven eight"]
    pool, bench = frames(ours, ["what is 2 + 2?", "one two three four five six seven eight nine"])
    assert find_hits(pool, pool.index, bench)["how"].to_list() == ["exact", "8-gram"]
    assert find_hits(pool, pool.index, bench, n=0)["id"].to_list() == ["p0"]


def test_of_equal_questions_the_right_then_the_longest_trace_stays() -> None:
    rows = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "question": ["Same  thing", "same thing", "SAME THING", "other"],
            "thinking": ["t", "t", "u", "t"],
            "correct": [False, True, True, None],
            "trace_tokens": [9, 1, 5, 1],
        }
    )
    rows = pool_of_frame(rows).index
    assert duplicate_reasons(rows).to_list() == ["duplicate of c", "duplicate of c", None, None]
    assert duplicate_reasons(rows, by="trace").to_list() == ["duplicate of b", None, None, None]
    assert duplicate_reasons(rows, by="off").null_count() == 4


@pytest.mark.parametrize(
    ("file", "questions", "exact", "math500", "aime2024"),
    [("s1k_questions.jsonl", 104, 2, 96, 280), ("s1k_release_problems_solutions.jsonl", 94, 2, 86, 260)],
)
def test_the_real_thousand_against_real_benchmarks(
    shared_data: Path, file: str, questions: int, exact: int, math500: int, aime2024: int
) -> None:
    pool = read_pool(shared_data / "s1k" / file)
    bench = read_benchmarks([shared_data / "benchmarks" / f"{b}.jsonl" for b in ("math500", "aime2024")])
    hits = find_hits(pool, pool.index, bench, profile="official")
    assert hits["id"].n_unique() == questions
    assert {(b, h): n for b, h, n in hits.group_by("benchmark", "how").len().iter_rows()} == {
        ("math500", "exact"): exact,
        ("math500", "8-gram"): math500,
        ("aime2024", "8-gram"): aime2024,
    }
    mine = {i: naive_ngrams(q, 8) for i, q in pool.rows.select("id", "question").iter_rows()}
    theirs = {(b, i): naive_ngrams(q, 8) for b, i, q in bench.iter_rows()}
    naive = {(i, *key) for i, g in mine.items() for key, other in theirs.items() if not g.isdisjoint(other)}
    shared = hits.filter(pl.col("count") > 0).select("id", "benchmark", "benchmark_id")
    assert set(shared.iter_rows()) == naive


@pytest.mark.parametrize(
    ("mine", "other", "same"),
    [
        (r"Compute $\binom{10}{3}$", r"Compute $\binom{10}{3}$.", True),
        ("Find $x + y$ , if $xy=1$", "find $x+y$, if $x y = 1$.", True),
        (r"What is \(f(1,2)\)?", "What is $f(1, 2)$ ?", True),
        ("Solve for “x”: x − 1 = 2", 'Solve for "x": x-1=2', True),
        ("求和。", "求和", True),
        ("?!", "?!", True),
        ("What is 2 + 2?", "What is 2 - 2?", False),
        ("What is 2.5?", "What is 25?", False),
        ("What is 1 2?", "What is 12?", False),
        ("What is .5?", "What is 5?", False),
        ("What is 5!?", "What is 5?", False),
        ("Find f'(x)", "Find f(x)", False),
    ],
)
def test_strict_leaves_out_spacing_and_punctuation_only(mine: str, other: str, same: bool) -> None:
    pool, bench = frames([mine], [other])
    for n in (0, 8):
        assert find_hits(pool, pool.index, bench, n=n)["how"].to_list() == ["exact"] * same
    official = find_hits(pool, pool.index, bench, profile="official").height
    assert official == (mine.lower().split() == other.lower().split())


@settings(deadline=None, max_examples=60)
@given(texts, texts, st.integers(0, 4))
def test_strict_finds_every_exact_match_of_official(ours: list[str], theirs: list[str], n: int) -> None:
    pool, bench = frames(ours, theirs)
    found = {p: find_hits(pool, pool.index, bench, n=n, profile=p) for p in ("strict", "official")}
    exact = {p: set(f.filter(how="exact").select("id", "benchmark_id").iter_rows()) for p, f in found.items()}
    assert exact["official"] <= exact["strict"]


def test_every_aime_problem_is_found_in_another_transcription(shared_data: Path) -> None:
    bench = read_benchmarks(shared_data / "benchmarks" / "aime2024.jsonl")
    pool = read_pool(shared_data / "benchmarks" / "aime2024_alt.jsonl")
    assert find_hits(pool, pool.index, bench)["id"].n_unique() == 30
    assert find_hits(pool, pool.index, bench, profile="official")["id"].n_unique() == 28


STOCK = "Please reason step by step and put your final answer within a box."


def test_a_sentence_that_unrelated_questions_share_is_no_hit() -> None:
    asked = ["What is the sum of the odd numbers?", "Who wrote the play?", "How far is the moon from here?"]
    pool, bench = frames([f"{q} {STOCK}" for q in asked], [f"Name a prime above one hundred. {STOCK}"])
    assert not find_hits(pool, pool.index, bench).height
    assert find_hits(pool, pool.index, bench, profile="official").height == 3
    # Two are too few to call it a stock phrase, and traces of one question count once.
    for few in (asked[:2], [asked[0]] * 3):
        pool, _ = frames([f"{q} {STOCK}" for q in few], [])
        assert find_hits(pool, pool.index, bench).height == len(few)


def test_in_a_large_pool_a_phrase_must_be_in_one_question_of_a_hundred() -> None:
    for size, hits in ((600, 5), (400, 0)):
        ours = [f"Question {i}: how much is {i} plus one?" + f" {STOCK}" * (i < 5) for i in range(size)]
        pool, bench = frames(ours, [f"Name a prime above one hundred. {STOCK}"])
        assert find_hits(pool, pool.index, bench).height == hits


def test_versions_of_one_benchmark_question_do_not_hide_each_other() -> None:
    secret = "Ann has nine red and four blue balls in a bag and draws two of them at once without looking"
    pool, bench = frames([f"{start} {secret}" for start in ("One:", "Two:", "Three:", "Four:")], [secret])
    assert find_hits(pool, pool.index, bench).height == 4


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_row_of_every_benchmark_file_counts_whatever_its_id(tmp_path: Path) -> None:
    secret = "the {} secret test question of this little world here"
    words = ("first", "second", "third", "fourth")
    first, second, third, fourth = (secret.format(w) for w in words)
    write_lines(tmp_path / "set" / "a.jsonl", [{"id": 0, "question": first}, {"id": 0, "question": second}])
    write_lines(tmp_path / "set" / "b.jsonl", [{"ID": 0, "Problem": third}])
    again = write_lines(tmp_path / "other" / "a.jsonl", [{"id": 0, "QUESTION": fourth}])
    bench = read_benchmarks([tmp_path / "set", again])
    assert bench["benchmark_question"].to_list() == [first, second, third, fourth]
    counts = dict(bench["benchmark"].value_counts().iter_rows())
    assert counts == {"set/a": 2, "b": 1, "other/a": 1}
    pool = pool_of_frame(pl.DataFrame({"id": list(words), "question": [first, second, third, fourth]}))
    hits = find_hits(pool, pool.index, bench).filter(how="exact")
    assert hits.height == 4 and hits["question"].equals(hits["benchmark_question"])
    ledger = run_stages(pool, ["decontaminate"], benchmarks=bench)
    assert not ledger.kept.height
    assert any("2 of set/a, 1 of b, 1 of other/a" in note for note in ledger.notes)


@pytest.mark.parametrize("row", [{"question": None}, {"question": " "}, {"text": "q"}, {"question": 3}])
def test_a_benchmark_row_that_cannot_be_read_is_an_error(tmp_path: Path, row: dict[str, object]) -> None:
    path = write_lines(tmp_path / "b.jsonl", [{"question": "fine"}, row])
    with pytest.raises(BadInput, match=r"b\.jsonl, row 2: "):
        read_benchmarks(path)
    with pytest.raises(BadInput, match="no question"):
        read_benchmarks(write_lines(tmp_path / "empty.jsonl", []))


def test_benchmark_questions_without_an_id_are_checked_and_null_ones_refused() -> None:
    pool, bench = frames(["What is 2 + 2?", "And 3 + 3?"], ["what is 2 + 2?", "and 3 + 3?"])
    nameless = bench.with_columns(benchmark_id=pl.lit(None, pl.String))
    assert find_hits(pool, pool.index, nameless)["id"].to_list() == ["p0", "p1"]
    with pytest.raises(BadInput, match="row 2"):
        blank = pl.when(pl.int_range(pl.len()) != 1).then(pl.col("benchmark_question"))
        find_hits(pool, pool.index, bench.with_columns(benchmark_question=blank))
