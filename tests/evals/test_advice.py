"""The advice: what it costs to be wrong, by simulation."""

import math

import numpy as np
import pytest

from s1.evals.advice import MARGIN, advise

TRIALS = 300
MOST = 31
"""False advice in more of 300 trials has a chance below 1 in 10,000 if the true rate is 5 %."""


def advice_for(rights, prices):
    """`rights` by policy and question, dearer from left to right unless `prices` say otherwise."""
    return advise(prices, {f"p{i}": list(map(float, row)) for i, row in enumerate(rights)})


def test_the_limit_of_the_simulation_is_what_it_says():
    tail = sum(math.comb(TRIALS, i) * 0.05**i * 0.95 ** (TRIALS - i) for i in range(MOST + 1, TRIALS + 1))
    assert tail < 1e-4


@pytest.mark.parametrize("worse", [1, 4, 8])
def test_truly_worse_policies_are_advised_in_at_most_one_run_of_twenty(worse):
    rng, n, false = np.random.default_rng(worse), 1000, 0
    accuracy = np.array([0.7 - MARGIN / 100] * worse + [0.7])[:, None]
    for _ in range(TRIALS):
        own = rng.random((worse + 1, n)) < 0.1  # else the luck of a question is that of all policies
        luck = np.where(own, rng.random((worse + 1, n)), rng.random(n))
        found = advice_for(luck < accuracy, range(worse + 1))
        false += found.policy != found.best  # says "not worse than the best", and all but the dearest are
    assert false <= MOST


def test_the_search_ends_at_the_first_policy_that_is_not_shown_to_be_as_good():
    right = np.ones((4, 400), bool)
    right[1, :40] = False
    found = advice_for(right, [1, 2, 3, 4])
    assert found.best == found.policy == "p0", "the cheapest of equals is the best"
    right[:3, 0] = False
    found = advice_for(right, [1, 2, 3, 4])
    assert (found.best, found.policy, found.candidate) == ("p3", "p2", None)


def test_few_questions_without_any_difference_do_not_show_that_a_cheaper_policy_is_as_good():
    found = advice_for(np.ones((2, 30), bool)[:, :], [2, 1])
    assert found.policy == found.best == "p1" and found.rivals == ("p0",)
    right = np.ones((2, 30), bool)
    right[0, 0] = False
    found = advice_for(right, [1, 2])
    assert (found.policy, found.candidate) == ("p1", None)  # 3.3 points below
    right = np.ones((2, 100), bool)
    right[0, 0] = False
    found = advice_for(right, [1, 2])
    assert (found.policy, found.candidate) == ("p1", "p0")
    assert found.questions_needed > 290, "the price of 1 point where no question changes"


def test_the_best_is_called_better_only_than_policies_that_are_shown_to_be_worse():
    rng = np.random.default_rng(0)
    equal = [advice_for(rng.random((6, 60)) < 0.5, range(6)) for _ in range(60)]
    assert sum(len(found.rivals) < 5 for found in equal) <= 11, "chance below 1 in 10,000 at 5 %"
    right = np.zeros((3, 200), bool)
    right[1, :150] = True
    right[2, :151] = True
    found = advice_for(right, [1, 2, 3])
    assert (found.best, found.rivals) == ("p2", ("p1",))
