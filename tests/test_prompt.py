"""How a context is divided into thinking and answer: in one place, the same for every way in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s1.budget import Forcing
from s1.errors import S1Error
from s1.policy import BudgetPolicy, parse_limit, settings_key
from s1.prompt import ANSWER_RESERVE, EncodedPrompt, room_for
from s1.types import Chunk, Stop

END = Stop("</think>", (1,))
EOS = Stop("<|end|>", (2,))


def encoded(
    policy: BudgetPolicy, *, context: int = 4000, prompt: int = 10, limit: int | None = None
) -> EncodedPrompt:
    return EncodedPrompt(
        policy=policy, prompt=(9,) * prompt, close=(1,), cue=(5, 6), newline=(4,), waits=((7,),), transition=(),
        stops=(END, EOS), answer_stops=(EOS,), context=context, decode=lambda ids: "x" * len(ids), answer_limit=limit,
    )  # fmt: skip


def test_a_model_that_never_ends_its_thinking_still_has_room_for_a_whole_answer():
    forcing = Forcing(encoded(BudgetPolicy()))
    thinking = forcing.ask()
    forcing.feed(Chunk((8,) * thinking.max_tokens, "length"))
    answer = forcing.ask()
    both = 4000 - 10 - 4
    assert answer.max_tokens == both // 4
    assert thinking.max_tokens + answer.max_tokens == both


def test_the_reserve_of_a_long_context_is_fixed_and_a_shorter_answer_limit_lowers_it():
    assert room_for(encoded(BudgetPolicy(), context=40_000)).limit == 40_000 - 14 - ANSWER_RESERVE
    assert room_for(encoded(BudgetPolicy(), limit=100)).limit == 4000 - 14 - 100


def test_a_limit_of_the_thinking_is_taken_as_it_is():
    assert room_for(encoded(BudgetPolicy(max_thinking=3985))).limit == 3985
    assert Forcing(encoded(BudgetPolicy(max_thinking=3985))).limit == 3985
    with pytest.raises(S1Error):
        Forcing(encoded(BudgetPolicy(max_thinking=3986)))


def test_the_official_profile_reserves_one_token():
    assert room_for(encoded(BudgetPolicy(profile="official"))).limit == 4000 - 14 - 1


POLICIES = st.builds(
    BudgetPolicy,
    max_thinking=st.none() | st.integers(0, 60),
    waits=st.integers(0, 2),
    max_answer=st.none() | st.integers(0, 30),
    grace=st.integers(0, 5),
)


@given(POLICIES, st.integers(20, 90), st.none() | st.integers(1, 40))
def test_thinking_forced_end_and_answer_never_exceed_the_context(policy, context, limit):
    prompt = encoded(policy, context=context, limit=limit)
    try:
        forcing = Forcing(prompt)
    except S1Error:
        return
    used = len(prompt.prompt)
    while (request := forcing.ask()) is not None:
        assert len(request.prefix) + request.max_tokens <= context
        if forcing.phase == "answer" and limit is not None:
            assert request.max_tokens <= limit
        if policy.max_answer is not None and forcing.phase == "answer":
            assert request.max_tokens == min(policy.max_answer, limit or policy.max_answer)
        forcing.feed(Chunk((8,) * request.max_tokens, "length"))
        used = len(request.prefix) + request.max_tokens
    assert used <= context


@given(POLICIES, POLICIES)
def test_equal_policies_and_only_they_have_equal_keys(one, other):
    assert (one.key == other.key) == (one == other)


def test_a_key_does_not_depend_on_the_label_and_reads_like_the_settings():
    policy = BudgetPolicy(max_thinking=32, waits=2, wait=("Wait", "Hmm, so"))
    assert policy.key == 'max_thinking=32,waits=2,wait=["Wait", "Hmm, so"]'
    assert BudgetPolicy().key == "natural"
    assert settings_key(replace(policy, waits=0, wait=("Wait",))) == "max_thinking=32"


def test_a_person_may_write_auto_for_no_limit():
    assert parse_limit("auto") is None and parse_limit("12") == 12
    with pytest.raises(ValueError):
        parse_limit("twelve")
