"""The generation arguments of the authors' repository, with their meaning there (profile `official`)."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadInput, S1Error
from s1.formats import FORMATS
from s1.harness.generation_kwargs import read_request
from s1.policy import BudgetPolicy

PROMPT = "<|user|>q<|assistant|>"
OFFICIAL = BudgetPolicy(profile="official")


def answer(talk, fmt="petri", context=4000, **arguments):
    engine = ScriptedEngine(talk, context=context)
    request = read_request(arguments, BudgetPolicy())
    forcing = request.forcing(engine, request.thinking_format(engine, FORMATS[fmt]), PROMPT)
    return asyncio.run(drive(forcing, engine))


def short(prefix):
    return " 4<|end|>" if "</think>" in prefix else " hm</think>"


def endless(prefix):
    return "word " * 2000


@given(
    waits=st.integers(0, 9), limit=st.integers(0, 99), text=st.none() | st.sampled_from(["Wait", "Hmm", ""])
)
def test_the_budget_becomes_an_official_policy(waits, limit, text):
    names = {"max_tokens_thinking": limit, "thinking_n_ignore": waits, "thinking_n_ignore_str": text}
    policy = read_request(names, BudgetPolicy(max_answer=7)).policy
    assert (policy.profile, policy.max_thinking, policy.waits, policy.max_answer) == (
        "official", limit, waits, 7,
    )  # fmt: skip
    assert not waits or policy.wait == (text or "",)


def test_an_end_is_ignored_and_each_round_has_the_whole_limit():
    made = answer(short, max_tokens_thinking=20, thinking_n_ignore=2, thinking_n_ignore_str="Wait")
    assert made.text_of("thinking") == " hmWait hmWait hm" and made.waits == 2 and not made.cut
    made = answer(endless, max_tokens_thinking=20, thinking_n_ignore=2, thinking_n_ignore_str="Wait")
    assert made.thinking_tokens == 20 and made.waits == 0 and made.cut


def test_without_a_text_an_ignored_end_appends_nothing():
    made = answer(short, thinking_n_ignore=1)
    assert made.waits == 1 and "Wait" not in made.text_of("thinking")


def test_a_minimum_masks_the_end_and_inserts_nothing():
    made = answer(short, min_tokens_thinking=30)
    assert made.thinking_tokens >= 30 and made.waits == 0
    assert {s.by for s in made.segments if s.phase == "thinking"} == {"model"}


@pytest.mark.parametrize(("asked", "context"), [(500, 4000), (4000, 500), (32768, 500)])
def test_auto_leaves_a_hundred_tokens_after_prompt_thinking_and_delimiters(asked, context):
    made = answer(endless, context=context, max_gen_toks=asked, max_tokens_thinking="auto")
    used = sum(len(s.token_ids) for s in made.segments if s.phase != "answer")
    assert made.cut and used == min(asked, context) - 100


def test_auto_without_room_is_the_fault_of_the_prompt():
    with pytest.raises(BadInput, match="max_tokens_thinking=auto"):
        answer(endless, max_gen_toks=100, max_tokens_thinking="auto")


def test_without_a_limit_of_its_own_the_thinking_has_that_of_the_answer():
    made = answer(endless, max_gen_toks=50, thinking_n_ignore=1)
    assert (made.thinking_tokens, made.answer_tokens) == (50, 50)
    assert answer(endless, context=200, max_gen_toks=900, thinking_n_ignore=1).answer_tokens == 1


def test_the_delimiters_of_a_request_replace_those_of_the_format():
    def talk(prefix):
        return " 4<|end|>" if "[answer]" in prefix else " hm</think> more[stop]"

    given = {"thinking_start": "[think]", "thinking_end": "[answer]", "until_thinking": "[stop]"}
    made = answer(talk, **given)
    assert made.text_of("prompt").endswith("[think]")
    assert made.text_of("thinking") == " hm</think> more" and made.text_of("delimiter") == "[answer]"
    assert answer(talk, **given, until_thinking_2="</think>").text_of("thinking") == " hm"


def test_the_stops_of_the_task_end_the_thinking_too():
    made = answer(short, until=["hm", "<|end|>"], max_tokens_thinking=90)
    assert made.text_of("thinking") == " " and made.text_of("answer") == " 4"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temperature_thinking": 0.5}, "temperature_thinking.*alike"),
        ({"max_token_thinking": 5}, "Did you mean 'max_tokens_thinking'"),
        ({"max_tokens_thinking": "long"}, "max_tokens_thinking is 'long'"),
        ({"thinking_n_ignore": -1}, "thinking_n_ignore is -1"),
        ({"thinking_n_ignore": 1, "min_tokens_thinking": 5}, "min_tokens_thinking together"),
        ({"thinking_n_ignore": 1, "max_thinking": 5}, "given twice.*thinking_n_ignore.*max_thinking=5"),
        ({"thinking_n_ignore": 1, "profile": "strict"}, "profile=strict"),
        ({"thinking_end": "</think>\n"}, "thinking_end"),
        ({"rejection_sample": True}, "--method rejection"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(given, said):
    with pytest.raises(S1Error, match=said):
        read_request(given, BudgetPolicy())


def test_a_budget_of_the_model_beside_theirs_is_refused():
    with pytest.raises(S1Error, match="given twice"):
        read_request({"thinking_n_ignore": 1}, BudgetPolicy(max_thinking=9))
    assert read_request({"thinking_n_ignore": 0}, OFFICIAL).policy == OFFICIAL
