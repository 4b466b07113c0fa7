"""Rejection sampling: nothing over the limit is kept, and nothing is decoded past it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.errors import BadConfig
from s1.grading import grade
from s1.methods import load_method
from s1.methods.rejection import Rejection
from s1.policy import BudgetPolicy
from s1.types import Question, Spent


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(0, 8))
def test_the_first_that_is_short_enough_is_kept_and_each_try_is_paid_for(rolled, lengths, limit):
    rolls = [("t" * n, " 7") for n in lengths]
    found, engine = rolled(Rejection(limit, len(rolls)), rolls)
    kept = next((i for i, n in enumerate(lengths) if n <= limit), None)
    tried = lengths if kept is None else lengths[: kept + 1]
    assert found.spent.thinking == sum(min(n, limit + 1) for n in tried)
    assert found.spent.rollouts == len(tried)
    assert all(engine.decoded[i] <= limit + 1 for i in range(len(tried)) if i != kept)
    if kept is None:
        assert not found.text_of("answer") and found.spent.answer == 0
    else:
        assert found.thinking_tokens == lengths[kept] and found.text_of("answer").endswith("7")


def test_after_the_last_try_there_is_no_answer_and_no_error(rolled):
    found, engine = rolled(Rejection(3, 2), [("t" * 9, " 7"), ("u" * 9, " 7")])
    assert (found.text_of("thinking"), found.cut, found.error) == ("uuuu", True, None)
    assert {s.phase for s in found.segments} == {"prompt", "thinking"}
    assert found.forced_tokens == 0 and found.spent == Spent(8, 0, 0, 2)
    assert len(engine.asked) == 2
    assert grade(found, Question("q", "What?", "7"), "exact").outcome == "cut"


def test_a_try_that_breaks_off_is_followed_by_another(rolled):
    found, _ = rolled(Rejection(3, 3), [None, ("t" * 9, " 7"), ("ok", " 7")])
    assert found.text_of("thinking") == "ok" and found.spent == Spent(6, 2, 0, 3, 1)
    found, _ = rolled(Rejection(3, 2), [None, None])
    assert found.error.startswith("All 2 rollouts failed") and found.spent.failed == 2


def test_control_measures_its_limit():
    assert Rejection(64).bounds == {"max_thinking": 64}


def test_what_cannot_be_is_refused(rolled):
    with pytest.raises(BadConfig, match="temperature 0"):
        rolled(Rejection(3, 2), [("t", " 7")] * 2, temperature=0.0, seed=None)
    with pytest.raises(BadConfig, match="limit is -1"):
        load_method("rejection:limit=-1")
    with pytest.raises(BadConfig, match="ends by itself"):
        load_method("rejection:limit=64", policy=BudgetPolicy(max_thinking=32))
    load_method("rejection:limit=64", policy=BudgetPolicy(max_answer=32))
