"""Best of n: the reward model's choice, and its price."""

import pytest

from s1.errors import BadConfig, EngineFailure
from s1.methods import load_method
from s1.methods.voting import BestOfN
from s1.types import Spent

ROLLS = [("bad", " 8"), ("good", " 7"), ("fair thought", " 7")]


def test_the_best_rollout_is_returned_and_all_are_counted(rolled, liking):
    reward = liking({"bad": 0.1, "good": 0.9, "fair": 0.5})
    found, _ = rolled(BestOfN(3), ROLLS, reward)
    assert (found.text_of("thinking"), found.policy) == ("good", "best-of-n:n=3")
    assert found.spent == Spent(19, 6, 15, 3)
    assert reward.read == ["bad</think> 8", "good</think> 7", "fair thought</think> 7"]


def test_ties_go_to_the_shorter_then_to_the_earlier(rolled, liking):
    found, _ = rolled(BestOfN(3), [("abc", " 1"), ("ab", " 2"), ("ac", " 3")], liking({"a": 0.5}))
    assert found.text_of("answer").endswith("2")


def test_a_rollout_that_broke_off_is_not_scored(rolled, liking):
    found, _ = rolled(BestOfN(3), [ROLLS[0], None, ROLLS[2]], liking({"bad": 0.1, "fair": 0.5}))
    assert found.text_of("thinking") == "fair thought" and found.error is None
    assert found.spent == Spent(15, 4, 10, 3, 1)


def test_a_reward_model_that_breaks_is_an_error_with_what_was_spent(rolled, liking):
    reward = liking({})

    async def score(question, rollouts):
        raise EngineFailure("the reward model is gone")

    reward.score = score
    found, _ = rolled(BestOfN(3), ROLLS, reward)
    assert found.error == "the reward model is gone" and found.spent.thinking == 19


def test_without_a_reward_model_or_a_temperature_it_is_refused(rolled, liking):
    with pytest.raises(BadConfig, match="reward model"):
        rolled(BestOfN(3), ROLLS)
    with pytest.raises(BadConfig, match="temperature 0"):
        rolled(BestOfN(3), ROLLS, liking({}), temperature=0.0)
    with pytest.raises(BadConfig, match="n is 0"):
        load_method("best-of-n:n=0")
