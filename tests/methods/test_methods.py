"""What every method shares: loading by name, seeds of rollouts, costs."""

import pytest

from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig
from s1.formats import FORMATS
from s1.methods import METHODS, Task, load_method, load_reward, spent_on
from s1.policy import BudgetPolicy
from s1.types import Generation, Question, Sampling, Spent


def task(seed: int | None) -> Task:
    sampling = Sampling(temperature=1.0 if seed is not None else 0.0, seed=seed)
    return Task(ScriptedEngine(["x"]), FORMATS["petri"], Question("q", "1", "1"), sampling=sampling)


def test_the_first_rollout_is_the_plain_sample_and_the_others_differ():
    found = task(7)
    assert found.member(0) == found.sampling
    seeds = [found.member(i).seed for i in range(50)]
    assert len(set(seeds)) == 50 and seeds == [task(7).member(i).seed for i in range(50)]
    assert task(None).member(0) == task(None).sampling
    with pytest.raises(BadConfig, match="seed"):
        task(None).member(3)


def test_a_method_is_loaded_with_a_policy():
    method = load_method("forcing", policy=BudgetPolicy(max_thinking=9))
    assert (method.key, method.label, method.kind) == ("max_thinking=9", "max 9", "budget")


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("forcin", "Did you mean 'forcing'"),
        ("forcing:polic=1", "did you mean 'policy'"),
        ("forcing:x", "'x' is not NAME=VALUE"),
    ],
)
def test_a_misspelt_method_or_setting_gets_the_nearest_name(spec, said):
    with pytest.raises(BadConfig) as caught:
        load_method(spec)
    assert said in str(caught.value)


def test_an_unknown_reward_model_is_refused():
    with pytest.raises(BadConfig, match="Unknown reward model 'judge'"):
        load_reward("judge:x")


def test_every_listed_method_has_a_label_and_a_kind_and_loads_from_its_key():
    for name in METHODS:
        method = load_method(name, policy=BudgetPolicy())
        assert method.label and method.kind and method.key
        if name != "forcing":
            assert load_method(method.key) == method


def test_costs_add_up_over_rollouts_and_methods_within_methods():
    one = Generation("q", 0, "p", (), 10, 3, 0, 0, False, "stop")
    both = Generation("q", 0, "p", (), 5, 1, 0, 0, False, "stop", spent=Spent(50, 10, 7, 4))
    assert spent_on([one, both], reward_tokens=2) == Spent(60, 13, 9, 5)
