"""short-m@k: the m shortest vote, whatever the engine's speed, and the others are stopped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.errors import BadConfig
from s1.methods import load_method
from s1.methods.short_m import ShortM
from s1.methods.voting import Vote, winners
from s1.policy import BudgetPolicy
from s1.types import Spent

LENGTHS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from("456")), min_size=1, max_size=6)


@settings(deadline=None)
@given(LENGTHS, st.data())
def test_it_is_the_vote_of_the_m_shortest_whatever_the_speed_of_each(rolled, lengths, data):
    k = len(lengths)
    m = data.draw(st.integers(1, k))
    chunk = data.draw(st.integers(1, 7))
    turns = data.draw(st.lists(st.integers(1, 5), min_size=k, max_size=k))
    rolls = [("t" * n, f" {answer}") for n, answer in lengths]
    found, engine = rolled(ShortM(m, k), rolls, chunk=chunk, turns=turns)

    first = sorted(range(k), key=lambda i: (lengths[i][0], i))[:m]
    won = winners([Vote(lengths[i][1], lengths[i][0]) for i in first], "exact")[0]
    end = lengths[first[-1]][0]
    assert found.text_of("thinking") == "t" * lengths[first[won]][0]
    assert found.text_of("answer").endswith(lengths[first[won]][1])
    assert found.spent == Spent(sum(min(n, end) for n, _ in lengths), 2 * m, 0, k)
    assert all(engine.decoded[i] <= lengths[i][0] for i in range(k) if i not in first)


def test_the_streams_of_the_others_are_closed_when_the_m_th_has_finished(rolled):
    rolls = [("a" * 500, " 8"), ("b" * 20, " 7"), ("c" * 400, " 8"), ("d" * 30, " 7")]
    found, engine = rolled(ShortM(2, 4), rolls)
    assert found.text_of("thinking") == "b" * 20
    assert found.spent == Spent(20 + 30 + 30 + 30, 4, 0, 4)
    assert max(engine.decoded[0], engine.decoded[2]) <= 33
    assert len(engine.asked) == 4 + 2  # the stopped ones are asked for no answer


def test_a_slow_rollout_that_is_shorter_still_counts_as_first(rolled):
    rolls = [("a" * 20, " 8"), ("b" * 5, " 7")]
    found, _ = rolled(ShortM(1, 2), rolls, turns=[1, 9])
    assert found.text_of("answer").endswith("7") and found.spent.thinking == 10


def test_a_cut_thinking_has_finished_too(rolled):
    rolls = [("a" * 50, " 8"), ("b" * 60, " 7")]
    found, _ = rolled(ShortM(1, 2, BudgetPolicy(max_thinking=10)), rolls)
    assert (found.cut, found.policy, found.spent.thinking) == (True, "short-m:k=2,policy.max_thinking=10", 20)


def test_rollouts_that_break_off_leave_the_race(rolled):
    rolls = [None, ("b" * 20, " 7"), ("c" * 40, " 8")]
    found, _ = rolled(ShortM(1, 3), rolls)
    assert found.error is None and found.spent == Spent(40, 2, 0, 3, 1)
    found, _ = rolled(ShortM(3, 3), rolls)
    assert found.text_of("answer").endswith("7") and found.spent == Spent(60, 4, 0, 3, 1)
    found, _ = rolled(ShortM(1, 2), [None, None])
    assert found.error == "All 2 rollouts failed; the first: the engine broke"


def test_what_cannot_be_is_refused(rolled):
    with pytest.raises(BadConfig, match="temperature 0"):
        rolled(ShortM(1, 2), [("a", " 1")] * 2, temperature=0.0, seed=None)
    for spec in ("short-m:m=3,k=2", "short-m:m=0"):
        with pytest.raises(BadConfig):
            load_method(spec)
