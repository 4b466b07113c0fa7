from __future__ import annotations

import random
import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import slowness

from s1.data.curate_settings import CurateSettings, Preselect
from s1.data.difficulty import difficulty_reasons, join_attempts, with_trace_tokens
from s1.data.pool import pool_of_frame
from s1.data.select import select
from s1.errors import BadInput


def make_pool(count: int, domains: int = 5, seed: int = 0, source: str = "x") -> pl.DataFrame:
    draw = random.Random(seed)
    rows = {
        "id": [f"{i:06d}" for i in range(count)],
        "question": ["q"] * count,
        "source": [source] * count,
        "domain": [f"d{draw.randrange(domains)}" for _ in range(count)],
        "trace_tokens": [draw.randrange(1, 50) for _ in range(count)],
        "correct": [draw.random() < 0.5 for _ in range(count)],
    }
    return pool_of_frame(pl.DataFrame(rows)).index


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 80), st.integers(1, 60), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_choice_depends_on_rows_and_seed_and_not_on_their_order(
    count: int, n: int, seed: int, shuffle: random.Random
) -> None:
    pool = make_pool(count)
    order = list(range(count))
    shuffle.shuffle(order)
    for choose in (
        lambda p: select(p, CurateSettings(n=n, seed=seed, preselect=(Preselect("x", 40),))),
        lambda p: select(p, CurateSettings(n=n, strategy="random", seed=seed)),
        lambda p: select(p, CurateSettings(n=n, strategy="diverse", seed=seed)),
        lambda p: select(p, CurateSettings(n=n, strategy="longest", seed=seed)),
    ):
        chosen = choose(pool).rows
        assert chosen.equals(choose(pool[order]).rows)
        assert chosen.height == min(n, count) and chosen["id"].n_unique() == chosen.height


PINNED = ["000005", "000026", "000021", "000063", "000090", "000013"]


def test_the_draw_is_pinned_for_every_machine() -> None:
    assert select(make_pool(100), CurateSettings(n=6, seed=7)).rows["id"].to_list() == PINNED
    assert select(make_pool(100), CurateSettings(n=6, seed=8)).rows["id"].to_list() != PINNED


def test_domains_come_out_even_and_long_traces_first() -> None:
    rows = make_pool(3000).with_columns(
        domain=pl.when(pl.int_range(pl.len()) < 2900).then(pl.lit("big")).otherwise(pl.lit("small")),
        trace_tokens=pl.int_range(pl.len()),
    )
    chosen = select(rows, CurateSettings(n=100, preselect=())).rows
    assert 35 <= chosen.filter(pl.col("domain") == "small").height <= 65
    big = chosen.filter(pl.col("domain") == "big")["trace_tokens"]
    assert big.min() >= 2900 - 2 * big.len()


def test_ranks_follow_powers_of_two() -> None:
    domain, rank = pl.int_range(pl.len()) // 8, pl.int_range(pl.len()) % 8
    rows = make_pool(16_000).with_columns(domain=domain.cast(pl.String), trace_tokens=10 - rank)
    first = select(rows, CurateSettings(n=1500, preselect=())).rows.unique(
        "domain", keep="first", maintain_order=True
    )
    ranks = 10 - first["trace_tokens"]
    for rank, share in enumerate([0.502, 0.251, 0.125]):
        assert abs((ranks == rank).sum() / first.height - share) < 0.05


def test_preselected_rows_are_right_long_and_always_in() -> None:
    rows = make_pool(200, source="qfq/openaimath/Algebra")
    chosen = select(rows, CurateSettings(n=150, preselect=(Preselect("openaimath", 30),))).rows
    must = rows.filter(pl.col("correct") & (pl.col("trace_tokens") > 30))["id"]
    assert set(chosen.filter(pl.col("chosen") == "preselected")["id"]) == set(must)
    small = (Preselect("openaimath", 45),)
    strict, official = (
        select(rows, CurateSettings(n=90, preselect=small, profile=p)).rows["id"]
        for p in ("strict", "official")
    )
    assert set(strict) != set(official)  # draws of preselected rows come to nothing under official
    few = select(rows, CurateSettings(n=5, preselect=(Preselect("openaimath", 30),)))
    assert few.rows.height == 5 and "more than the 5" in few.notes[0]


def test_weights_decide_the_domain_once_enough_are_chosen() -> None:
    chosen = select(
        make_pool(2000),
        CurateSettings(n=60, preselect=(), domain_weights={"d1": 1.0}, weighted_after=20, profile="official"),
    ).rows
    assert set(chosen["domain"][20:]) == {"d1"} and chosen["domain"][:20].n_unique() > 2


def test_fewer_rows_than_asked_for_are_all_taken_with_a_note() -> None:
    short = select(make_pool(7), CurateSettings(n=10))
    assert short.rows.height == 7 and "Only 7 rows" in short.notes[0]


def test_a_domain_that_runs_out_is_named() -> None:
    rows = make_pool(100).with_columns(domain=pl.Series(["rare"] * 2 + ["common"] * 98))
    assert "1 domains ran out of rows: rare." in select(rows, CurateSettings(n=50)).notes
    assert select(rows[2:], CurateSettings(n=50)).notes == ()


def test_the_ablation_sets_are_what_they_say() -> None:
    pool = make_pool(300)
    longest = select(pool, CurateSettings(n=20, strategy="longest")).rows["trace_tokens"]
    assert longest.min() >= pool["trace_tokens"].top_k(20).min()
    assert select(pool, CurateSettings(n=20, strategy="full")).rows.height == 300
    counts = select(pool, CurateSettings(n=100, strategy="diverse")).rows["domain"].value_counts()["count"]
    assert counts.min() >= 8


def test_59000_rows_take_less_than_a_second_of_an_ordinary_machine() -> None:
    pool = make_pool(59_000, domains=50)
    start = time.process_time()
    assert select(pool, CurateSettings(n=1000)).rows.height == 1000
    assert time.process_time() - start < slowness()


def test_a_question_that_a_model_solved_is_dropped() -> None:
    attempts = pl.DataFrame(
        {
            "id": ["000000", "000000", "000001", "000002", "000002", "unknown"],
            "model": ["big", "small", "big", "big", "big", "big"],
            "correct": [False, True, None, True, False, True],
        }
    )
    pool = join_attempts(make_pool(4), attempts).with_columns(_key=pl.col("id"))
    assert pool["solved_big"].to_list() == [0.0, None, 0.5, None]
    assert difficulty_reasons(pool).to_list() == ["solved by small", None, "solved by big", None]
    assert difficulty_reasons(pool, most_solved=0.5).to_list() == ["solved by small", None, None, None]
    with pytest.raises(BadInput, match="No attempt belongs"):
        join_attempts(make_pool(1), attempts[5:])
    with pytest.raises(BadInput, match="no column 'correct'"):
        join_attempts(make_pool(1), attempts.drop("correct"))


def test_a_solved_question_does_not_stay_through_a_copy_that_nobody_graded() -> None:
    frame = pl.DataFrame(
        {
            "id": ["solved", "copy", "half", "other half", "other"],
            "question": ["How many?", " how  MANY?", "Why?", "Why?", "Who?"],
            "source": ["a", "b", "a", "b", "a"],
            "solved_big": [1.0, None, 1.0, 0.0, None],
        }
    )
    rows = pool_of_frame(frame).index
    found = dict(zip(rows["id"], difficulty_reasons(rows), strict=True))
    assert [name for name, reason in found.items() if reason is None] == ["other"]
    strict = dict(zip(rows["id"], difficulty_reasons(rows, most_solved=0.5), strict=True))
    assert {name for name, reason in strict.items() if reason} == {"solved", "copy"}


def test_traces_are_measured_by_any_counter() -> None:
    rows = make_pool(3).with_columns(thinking=pl.Series(["a b c", None, "a"]))
    assert with_trace_tokens(rows, lambda ts: [len(t.split()) for t in ts])["trace_tokens"].to_list() == [
        3,
        None,
        1,
    ]
    with pytest.raises(BadInput, match="no such tokenizer file"):
        with_trace_tokens(rows, "nowhere")


def test_characters_are_never_taken_for_tokens() -> None:
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c"], "question": ["q"] * 3, "source": ["math"] * 3, "correct": [True] * 3,
            "thinking": ["x" * 6000, "y", None], "trace_tokens": [None, 1, None],
        }
    )  # fmt: skip
    rows = pool_of_frame(frame).index
    for strategy in ("s1k", "longest"):
        with pytest.raises(BadInput, match="1 of 3 rows .*trace_tokens") as caught:
            select(rows, CurateSettings(n=1, strategy=strategy))
        assert "--tokenizer" in caught.value.hint
        assert select(rows[1:], CurateSettings(n=1, strategy=strategy)).rows.height == 1
    assert select(rows, CurateSettings(n=2, strategy="random")).rows.height == 2
