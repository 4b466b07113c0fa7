from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.data.clean import PETRI, CleanSettings, loop_reason
from s1.data.repetition import may_loop

TIGHT = CleanSettings(word_run=3, other_run=4, loop_words=6, loop_repeats=2)
SPACES = st.sampled_from([" ", "\n", "  ", "\u3000", "\x1c", "\r\n", "\t", "\u00a0", "\x85"])
TEXTS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c", "so", "7", "Wait,", "x" * 220, "ab" * 120]), SPACES),
    max_size=40,
).map(lambda pairs: "".join(word + space for word, space in pairs))
LOOPS = st.tuples(TEXTS, TEXTS, st.integers(1, 9), TEXTS).map(lambda t: t[0] + t[1] * t[2] + t[3])


def candidates(texts: list[str | None], rules: CleanSettings) -> list[bool]:
    found = may_loop(
        pl.Series(texts, dtype=pl.String),
        word_run=min(rules.word_run, rules.other_run),
        phrase_words=rules.loop_words,
        repeats=rules.loop_repeats,
    )
    return [bool(f) for f in found]


@settings(deadline=None, max_examples=150)
@given(st.lists(LOOPS, max_size=6), st.sampled_from([CleanSettings(), PETRI, TIGHT]))
def test_no_loop_is_missed(texts: list[str], rules: CleanSettings) -> None:
    for text, may in zip(texts, candidates([*texts], rules), strict=True):
        assert may or loop_reason(text, rules) is None


@settings(deadline=None, max_examples=100)
@given(st.lists(st.none() | LOOPS, max_size=8), st.sampled_from([1, 40, 400]))
def test_traces_looked_at_in_batches_give_what_they_give_together(texts: list[str | None], size: int) -> None:
    together = candidates(texts, TIGHT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("s1.data.repetition.BATCH_BYTES", size)
        assert candidates(texts, TIGHT) == together


@pytest.mark.parametrize("rules", [CleanSettings(), PETRI, TIGHT], ids=["default", "petri", "tight"])
def test_the_shortest_loop_of_every_period_is_seen_wherever_it_starts(rules: CleanSettings) -> None:
    for period in range(1, 33):
        span = rules.word_run if period == 1 else max(rules.loop_words, rules.loop_repeats * period)
        loop = [f"p{at % period}" for at in range(span)]
        texts = [" ".join([*(f"b{at}" for at in range(before)), *loop, "after"]) for before in range(9)]
        assert all(loop_reason(text, rules) for text in texts)
        assert candidates([*texts], rules) == [True] * 9, period


def test_ordinary_texts_are_let_through_without_the_search() -> None:
    prose = " ".join(f"word{i * i % 97} and {i}" for i in range(400))
    assert candidates([prose, None, "", "one"], CleanSettings()) == [False] * 4
    # A loop across the end of one text and the start of the next is none.
    assert candidates(["so so so", "so so so"], CleanSettings()) == [False] * 2
    assert candidates(["so " * 6, "a b c " * 10], CleanSettings()) == [True] * 2


@pytest.mark.parametrize("rules", [CleanSettings(), PETRI])
def test_few_real_traces_need_the_search_and_no_loop_of_theirs_is_missed(
    shared_data: Path, rules: CleanSettings
) -> None:
    traces = pl.read_parquet(shared_data / "traces/misguided_attention.parquet")["trace"][:700].to_list()
    may = candidates(traces, rules)
    loops = [loop_reason(t or "", rules) is not None for t in traces]
    assert all(m or not looped for m, looped in zip(may, loops, strict=True))
    assert sum(may) < 100
