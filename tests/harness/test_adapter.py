"""Arguments of a model: sorted, typed, and none of them dropped."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.errors import BadConfig
from s1.harness.adapter import POLICY_FIELDS, change_policy, read_arguments
from s1.policy import BudgetPolicy


@dataclass(frozen=True)
class Own:
    format: str | None = None
    loud: bool = False


def test_names_are_sorted_into_policy_harness_and_engine():
    given = {"max_thinking": 8, "wait": "Hmm", "context": 50, "loud": True}
    own, policy, engine = read_arguments("scripted:x", given, Own)
    assert policy == BudgetPolicy(max_thinking=8, wait=("Hmm",))
    assert own == Own(loud=True)
    assert engine == {"context": 50}


def test_auto_is_the_budget_that_the_context_leaves():
    assert read_arguments("scripted:x", {"max_thinking": "auto"}, Own)[1] == BudgetPolicy()
    assert change_policy(BudgetPolicy(max_thinking=8), {"max_thinking": "auto"}) == BudgetPolicy()
    assert change_policy(BudgetPolicy(), {"max_thinking": "8"}) == BudgetPolicy(max_thinking=8)


def test_several_wait_strings_are_a_list():
    assert change_policy(BudgetPolicy(), {"wait": ["Wait", "Hmm"]}).wait == ("Wait", "Hmm")


@pytest.mark.parametrize(
    ("wrong", "right"), [("max_thinkin", "max_thinking"), ("contxt", "context"), ("lout", "loud")]
)
def test_a_misspelt_name_gets_the_nearest_one(wrong, right):
    with pytest.raises(BadConfig, match=f"'{wrong}'.*Did you mean '{right}'"):
        read_arguments("scripted:x", {wrong: 1}, Own)


def test_all_unknown_names_are_listed_at_once():
    with pytest.raises(BadConfig, match="'wats', 'colour'"):
        read_arguments("scripted:x", {"wats": 1, "colour": 2}, Own)


@pytest.mark.parametrize(
    "given",
    [
        {"max_thinking": "many"},
        {"waits": 1.5},
        {"wait": 3},
        {"loud": 1},
        {"max_thinking": -1},
        {"wait": None},
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(given):
    with pytest.raises(BadConfig, match=next(iter(given))):
        read_arguments("scripted:x", given, Own)


def test_an_unknown_engine_is_refused():
    with pytest.raises(BadConfig, match="Unknown engine"):
        read_arguments("scriptet:x", {}, Own)


@given(st.text(min_size=1, max_size=20))
def test_no_name_is_ever_dropped(name):
    known = {*POLICY_FIELDS, "format", "loud", "context"}
    if name not in known:
        with pytest.raises(BadConfig):
            read_arguments("scripted:x", {name: 1}, Own)


def test_changing_a_policy_checks_it_as_a_whole():
    policy = BudgetPolicy(max_thinking=10)
    assert change_policy(policy, {"waits": 2}) == BudgetPolicy(max_thinking=10, waits=2)
    with pytest.raises(BadConfig, match="above max_thinking"):
        change_policy(policy, {"min_thinking": 20})
