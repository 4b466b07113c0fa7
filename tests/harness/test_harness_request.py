"""Limits and stops of one request: what is followed, what is refused, and what may be shown."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig, BadInput
from s1.formats import FORMATS
from s1.harness.adapter import HarnessRequest, render, shown_text
from s1.policy import BudgetPolicy
from s1.types import Sampling

FMT = FORMATS["petri"]


def answer(engine, policy, prompt="<|user|>q<|assistant|>", fmt=FMT, **limits):
    return asyncio.run(drive(HarnessRequest(policy, **limits).forcing(engine, fmt, prompt), engine))


def endless(prefix):
    return "word " * 4000


def tokens(generation):
    return sum(len(s.token_ids) for s in generation.segments if s.phase != "prompt")


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(1, 400),
    max_thinking=st.none() | st.integers(0, 100),
    max_answer=st.none() | st.integers(1, 50),
    answer_limit=st.none() | st.integers(1, 300),
    waits=st.integers(0, 3),
    thought=st.integers(0, 60),
    said=st.integers(0, 500),
)
def test_no_limit_is_ever_exceeded(total, max_thinking, max_answer, answer_limit, waits, thought, said):
    def talk(prefix):
        if "</think>" in prefix:
            return "a" * said + "<|end|>"
        return "t" * thought + "</think>"

    engine = ScriptedEngine(talk, context=500)
    policy = BudgetPolicy(max_thinking=max_thinking, max_answer=max_answer, waits=waits)
    try:
        generation = answer(engine, policy, total_limit=total, answer_limit=answer_limit)
    except BadConfig as error:
        assert f"{total} tokens" in str(error) or "left for thinking" in str(error)
        return
    assert generation.error is None
    assert tokens(generation) <= total
    assert generation.answer_tokens <= min(n for n in (answer_limit, max_answer, total) if n is not None)
    if max_thinking is not None:
        assert generation.thinking_tokens <= max_thinking


def test_an_answer_limit_as_large_as_the_context_leaves_the_thinking_its_room():
    engine = ScriptedEngine(endless, context=4000)
    generation = answer(engine, BudgetPolicy(), answer_limit=4000)
    assert 2900 < generation.thinking_tokens < 3100  # a quarter is kept for the answer
    assert generation.answer_tokens > 900 and generation.finish == "length"


def test_an_answer_limit_does_not_shorten_the_thinking():
    engine = ScriptedEngine(endless, context=4000)
    generation = answer(engine, BudgetPolicy(max_thinking=500), answer_limit=10)
    assert (generation.thinking_tokens, generation.answer_tokens) == (500, 10)


def test_what_the_thinking_leaves_of_a_total_goes_to_the_answer():
    engine = ScriptedEngine(lambda p: "a" * 900 if "</think>" in p else "tt</think>")
    generation = answer(engine, BudgetPolicy(max_thinking=90), total_limit=120)
    assert generation.thinking_tokens == 2 and tokens(generation) == 120


def test_a_total_below_the_budget_is_refused_with_the_numbers():
    with pytest.raises(BadConfig, match="max_thinking 90.*39 tokens"):
        answer(ScriptedEngine(endless), BudgetPolicy(max_thinking=90), total_limit=50)


def test_a_prompt_that_does_not_fit_is_the_fault_of_the_prompt():
    with pytest.raises(BadInput, match="does not fit"):
        answer(ScriptedEngine(endless, context=100), BudgetPolicy(), prompt="x" * 200)


def test_stops_end_the_answer_and_never_the_thinking():
    talk = {False: "one STOP two</think>", True: "three STOP four<|end|>"}
    engine = ScriptedEngine(lambda p: talk["</think>" in p])
    generation = answer(engine, BudgetPolicy(), stops=("STOP", "<|end|>", "STOP"))
    assert generation.text_of("thinking") == "one STOP two"
    assert shown_text(generation, FMT) == "three" and generation.finish == "stop"


@pytest.mark.parametrize(
    ("name", "limits"), [("stop string", {"stops": ("",)}), ("limit", {"answer_limit": 0})]
)
def test_a_limit_or_stop_that_allows_nothing_is_refused(name, limits):
    with pytest.raises(BadConfig, match=name):
        answer(ScriptedEngine(endless), BudgetPolicy(), **limits)


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=list(FORMATS))
@pytest.mark.parametrize("cut", [False, True])
def test_the_answer_is_shown_without_delimiters_and_with_a_forced_cue(fmt, cut):
    close = fmt.close.strip()

    def talk(prefix):
        return " forty two <|end|>" if close in prefix else "hm " * 20 + fmt.stops[0]

    engine = ScriptedEngine(talk, end="<|end|>" if fmt.name != "harmony" else "<|return|>")
    if fmt.name == "harmony":
        engine = ScriptedEngine(
            lambda p: talk(p).replace("<|end|>", "<|return|>", 1) if close in p else talk(p), end="<|return|>"
        )
    generation = answer(engine, BudgetPolicy(max_thinking=20 if cut else 90), fmt=fmt)
    assert generation.cut is cut
    cue = fmt.cue.strip() + " " if cut else ""
    assert shown_text(generation, fmt) == f"{cue}forty two"
    whole = shown_text(generation, fmt, with_thinking=True)
    assert whole.startswith(fmt.open + "hm hm") and close in whole and whole.endswith("forty two")


def test_a_template_that_refuses_a_role_is_bad_input():
    from jinja2 import TemplateError

    class Picky(ScriptedEngine):
        def render(self, messages):
            raise TemplateError("no system here")

    with pytest.raises(BadInput, match="system, user.*no system here"):
        render(Picky([]), [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}])


def test_a_sampled_request_has_a_seed_of_its_own_that_repeats():
    def seed(request, *identity):
        return request.forcing(ScriptedEngine(endless), FMT, "q", *identity).sampling.seed

    sampled = HarnessRequest(BudgetPolicy(), Sampling(1.0), seed=0)
    assert len({seed(sampled, "t", i, s) for i in range(5) for s in range(5)}) == 25
    assert seed(sampled, "t") == seed(sampled, "t")
    assert seed(HarnessRequest(BudgetPolicy(), Sampling(1.0)), "t") is None
    assert seed(HarnessRequest(BudgetPolicy(), seed=0), "t") is None
