"""The measures of a reward model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.petri.reward import LabelledRollout
from scripts.petri.reward_report import auc, auc_within, calibration, report

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]), st.booleans()), max_size=30)


@given(PAIRS)
def test_auc_is_the_chance_that_a_right_one_scores_above_a_wrong_one(pairs):
    rights = [score for score, right in pairs if right]
    wrongs = [score for score, right in pairs if not right]
    if not rights or not wrongs:
        assert auc(pairs) is None
        return
    won = sum((r > w) + (r == w) / 2 for r in rights for w in wrongs)
    assert auc(pairs) == pytest.approx(won / (len(rights) * len(wrongs)), abs=1e-4)


def test_within_groups_only_rollouts_of_one_group_are_compared():
    easy, hard = [(0.9, True), (0.8, False)], [(0.1, True), (0.2, False)]
    assert auc_within([easy, hard]) == 0.5 and auc(easy + hard) == 0.5
    assert auc_within([easy, [(0.1, True)]]) == 1.0 and auc_within([[(0.1, True)], [(0.2, False)]]) is None


def test_calibration_compares_scores_with_outcomes():
    pairs = [(0.1, False), (0.1, False), (0.15, True), (0.9, True), (1.0, False)]
    assert calibration(pairs, bins=2) == {
        "bins": [{"n": 3, "score": 0.117, "right": 0.333}, {"n": 2, "score": 0.95, "right": 0.5}],
        "error": round((3 * abs(0.35 / 3 - 1 / 3) + 2 * 0.45) / 5, 4),
    }


def rollout(decoded: tuple[int, ...], right: bool, question: int = 5) -> LabelledRollout:
    """Token 1 ends an attempt, 2 a line."""
    ids = (90, 91, *decoded)
    last = len(ids) - 1
    positions = tuple(i for i, token in enumerate(ids) if token in (1, 2) or i == last)
    return LabelledRollout(question, ids, positions, right)


def test_the_report_is_by_attempt_and_at_the_end():
    rollouts = [rollout((7, 1, 7, 1, 8), True), rollout((7, 1, 8), False)]
    found = report(rollouts, [0.2, 0.9, 0.8, 0.6, 0.1], attempt_end=1)
    assert found["auc_by_attempt"] == {"1": {"n": 2, "auc": 0.0}, "2": {"n": 1, "auc": None}}
    assert (found["auc_at_the_end"], found["right"]) == (1.0, 50.0)
    assert found["auc_at_the_end_within_questions"] == 1.0
    apart = report(
        [rollouts[0], rollout((7, 1, 8), False, question=6)], [0.2, 0.9, 0.8, 0.6, 0.1], attempt_end=1
    )
    assert apart["auc_at_the_end_within_questions"] is None
