"""The advice: what it costs to be wrong, by simulation."""

import math

import numpy as np
import pytest

from s1.evals.advice import MARGIN, advise
from s1.evals.intervals import weights

TRIALS = 300
MOST = 31
"""False advice in more of 300 trials has a chance below 1 in 10,000 if the true rate is 5 %."""


def advice_for(rights, prices, draws=300, seed=0):
    """`rights` by policy and question, dearer from left to right unless `prices` say otherwise."""
    scores = {f"p{i}": list(map(float, row)) for i, row in enumerate(rights)}
    table = np.array(list(scores.values())).T
    resampled = [100 * (block @ table) for block in weights(table.shape[0], draws=draws, seed=seed)]
    return advise(prices, scores, np.concatenate(resampled))


def test_the_limit_of_the_simulation_is_what_it_says():
    tail = sum(math.comb(TRIALS, i) * 0.05**i * 0.95 ** (TRIALS - i) for i in range(MOST + 1, TRIALS + 1))
    assert tail < 1e-4


@pytest.mark.parametrize("worse", [1, 4, 8])
def test_truly_worse_policies_are_advised_in_at_most_one_run_of_twenty(worse):
    rng, n, false = np.random.default_rng(worse), 1000, 0
    accuracy = np.array([0.7 - MARGIN / 100] * worse + [0.7])[:, None]
    for trial in range(TRIALS):
        own = rng.random((worse + 1, n)) < 0.1  # else the luck of a question is that of all policies
        luck = np.where(own, rng.random((worse + 1, n)), rng.random(n))
        found = advice_for(luck < accuracy, range(worse + 1), seed=trial)
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
