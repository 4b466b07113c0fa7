from __future__ import annotations

import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.data.curate_settings import CurateSettings
from s1.data.near_duplicates import near_pairs, near_reasons
from s1.data.pipeline import run_stages
from s1.data.pool import Pool, pool_of_frame, read_pool


def pool_of(questions: list[str], **columns: object) -> Pool:
    ids = [f"r{i:03d}" for i in range(len(questions))]
    return pool_of_frame(pl.DataFrame({"id": ids, "question": questions, **columns}))


def pairs_of(pool: Pool, threshold: float) -> pl.DataFrame:
    return near_pairs(pool, pool.index, threshold)


def reasons_of(pool: Pool, threshold: float) -> list[str | None]:
    return near_reasons(pool.index, pairs_of(pool, threshold)).to_list()


def naive_grams(text: str, n: int = 3) -> set[str]:
    words = [w.strip(".,;:!?\"'()[]") for w in text.lower().split()]
    words = [w for w in words if w]
    words += [""] * (n - len(words))
    return {" ".join(words[i : i + n]) for i in range(len(words) - n + 1)}


def naive_pairs(questions: list[str], threshold: float) -> dict[tuple[str, str], float]:
    found = {}
    for i, one in enumerate(questions):
        for j in range(i + 1, len(questions)):
            a, b = naive_grams(one), naive_grams(questions[j])
            similarity = len(a & b) / len(a | b)
            if similarity >= threshold and one.lower().split() != questions[j].lower().split():
                found[f"r{i:03d}", f"r{j:03d}"] = similarity
    return found


def templates(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    base = [[draw.choice("abcdefghijklmnop") * 2 for _ in range(draw.randrange(4, 30))] for _ in range(6)]
    made = []
    for _ in range(count):
        words = list(draw.choice(base))
        for _ in range(draw.randrange(0, 4)):
            words[draw.randrange(len(words))] = draw.choice("xyz") * 3
        made.append(" ".join(words))
    return list(dict.fromkeys(made))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([0.5, 0.7, 0.9]))
def test_pairs_are_those_of_a_naive_comparison_save_one_in_a_hundred(seed: int, threshold: float) -> None:
    questions = templates(40, seed)
    found = pairs_of(pool_of(questions), threshold)
    pairs = {(a, b): s for a, b, s in found.select("id", "other_id", "similarity").iter_rows()}
    expected = naive_pairs(questions, threshold)
    assert set(pairs) <= set(expected)
    assert all(pairs[p] == pytest.approx(expected[p]) for p in pairs)
    missed = [s for p, s in expected.items() if p not in pairs]
    assert len(missed) <= max(2, len(expected) // 25)
    assert not [s for s in missed if s > (1 + threshold) / 2]


def test_marks_and_case_make_no_difference_and_short_questions_are_one_piece() -> None:
    questions = ["Find x, if x is 3.", "find x if x is 3", "2+2?", "3+3?", "", "!"]
    pairs = pairs_of(pool_of(questions), 0.9)
    assert [(a, b) for a, b in pairs.select("id", "other_id").iter_rows()] == [
        ("r000", "r001"),
        ("r004", "r005"),
    ]
    assert pairs_of(pool_of(["one"]), 0.5).height == 0


def test_of_near_questions_the_right_then_the_longest_stays_with_all_its_traces() -> None:
    text = "a man walks up a very long hill at noon and rests {} times"
    questions = [text.format(w) for w in ("two", "two", "three", "four")] + ["something else"]
    pool = pool_of(
        questions,
        thinking=["t1", "t2", "t", "t", "t"],
        correct=[None, None, True, False, None],
        trace_tokens=[9, 5, 1, 99, 1],
    )
    reasons = reasons_of(pool, 0.6)
    assert reasons == ["near duplicate of r002"] * 2 + [None, "near duplicate of r002", None]
    found = run_stages(pool, ["decontaminate"], CurateSettings(duplicates="trace", near=0.6))
    dropped = dict(found.rejected.select("id", "reason").iter_rows())
    assert [dropped.get(number) for number in pool.index["id"]] == reasons
    assert found.tables["near.jsonl"].height == 3
    assert not run_stages(pool, ["decontaminate"], CurateSettings(duplicates="trace")).rejected.height


def test_a_chain_keeps_what_is_near_only_to_dropped_rows() -> None:
    words = [f"w{i}" for i in range(30)]
    chain = [" ".join([*words[: 30 - k], *(f"v{i}" for i in range(k))]) for k in (0, 4, 8)]
    pool = pool_of(chain, trace_tokens=[9, 8, 7])
    assert pairs_of(pool, 0.6).height == 2  # the ends are too far apart
    assert reasons_of(pool, 0.6) == [None, "near duplicate of r000", None]


def test_the_order_of_rows_makes_no_difference() -> None:
    pool = pool_of(templates(60, 5))
    shuffled = pool.index.sample(fraction=1.0, shuffle=True, seed=2)
    pairs = pairs_of(pool, 0.6)
    assert pairs.height and pairs.equals(near_pairs(pool, shuffled, 0.6))
    by_id = dict(zip(shuffled["id"], near_reasons(shuffled, pairs), strict=True))
    assert [by_id[i] for i in pool.index["id"]] == reasons_of(pool, 0.6)


def test_the_released_thousand_holds_reworded_copies(shared_data: Path) -> None:
    pool = read_pool(shared_data / "s1k" / "s1k_release_problems_solutions.jsonl")
    pairs = pairs_of(pool, 0.7)
    assert (pairs.height, near_reasons(pool.index, pairs).drop_nulls().len()) == (10, 10)
    assert (pairs["similarity"] == 1).sum() == 4  # marks alone


def test_of_a_large_family_one_stays() -> None:
    words = [f"w{i}" for i in range(178)]
    questions = [" ".join([*words, f"end{i}"]) for i in range(200)]
    pool = pool_of(questions, trace_tokens=[(i * 37) % 200 for i in range(200)])
    reasons = reasons_of(pool, 0.8)
    assert reasons.count(None) == 1
