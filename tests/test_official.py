"""The `official` profile gives token for token what a naive version of the paper's rounds gives."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle_official import official_ids
from token_model import PROMPT, TokenModel, force, run

from s1.engines.scripted import ScriptedEngine
from s1.formats import FORMATS
from s1.policy import BudgetPolicy
from s1.types import Continuation, Generation, Stop

S1 = FORMATS["s1"]


def ids_of(generation: Generation) -> list[int]:
    return [i for s in generation.segments for i in s.token_ids]


def official(engine: ScriptedEngine, policy: BudgetPolicy) -> list[int]:
    """What the naive version makes of the same engine and numbers."""

    def generate(prefix: list[int], most: int, stops: Sequence[str], least: int) -> tuple[list[int], str]:
        async def collect() -> tuple[list[int], str]:
            made = tuple(Stop(text, engine.encode(text)) for text in stops)
            ids: list[int] = []
            async with aclosing(engine.stream(Continuation(tuple(prefix), most, made, least))) as chunks:
                async for chunk in chunks:
                    ids.extend(chunk.ids)
                    if chunk.finish:
                        return ids, chunk.finish
            raise AssertionError("no finish")

        return run(collect()) if most else ([], "length")

    assert policy.max_thinking is not None and policy.max_answer is not None
    return official_ids(
        generate,
        engine.encode,
        engine.decode,
        prompt=PROMPT,
        thinking_start="<|im_start|>think",
        thinking_end="<|im_start|>answer",
        until_thinking="<|im_start|>",
        end_of_turn="<|im_end|>",
        max_tokens_thinking=policy.max_thinking,
        max_gen_toks=policy.max_answer,
        n_ignore=policy.waits,
        ignore_str=policy.wait[0],
    )


def model(seed: int, ends_in: int, chunk: int = 3) -> TokenModel:
    return TokenModel(
        seed, ends_in=ends_in, chunk=chunk, context=1_000, delimiter="<|im_start|>", end="<|im_end|>"
    )


@settings(max_examples=1_500, derandomize=True, deadline=None, database=None)
@given(
    seed=st.integers(0, 9_999),
    ends_in=st.integers(1, 40),
    most=st.integers(0, 3) | st.integers(0, 40),
    waits=st.integers(0, 4),
    wait=st.sampled_from(["Wait", "", "Hmm é", "\n", "W"]),
    answer=st.integers(1, 20),
    chunk=st.integers(1, 50),
)
def test_the_official_profile_is_the_paper_s_code(
    seed: int, ends_in: int, most: int, waits: int, wait: str, answer: int, chunk: int
) -> None:
    policy = BudgetPolicy(max_thinking=most, waits=waits, wait=(wait,), max_answer=answer, profile="official")
    got = force(model(seed, ends_in, chunk), policy, S1)
    assert got.error is None
    assert ids_of(got) == official(model(seed, ends_in), policy)


def forced(script: list[str], policy: BudgetPolicy) -> Generation:
    got = force(ScriptedEngine(script, end="<|im_end|>"), policy, S1)
    assert ids_of(got) == official(ScriptedEngine(script, end="<|im_end|>"), policy)
    return got


def of(most: int, waits: int = 0, wait: str = "Wait") -> BudgetPolicy:
    return BudgetPolicy(max_thinking=most, waits=waits, wait=(wait,), max_answer=50, profile="official")


def after_the_prompt(generation: Generation) -> str:
    return "".join(s.text for s in generation.segments[1:])


def test_a_natural_end_has_neither_newline_nor_phrase() -> None:
    got = forced(["\nthink<|im_start|>", "\nfour<|im_end|>"], of(50))
    assert after_the_prompt(got) == "\nthink<|im_start|>answer\nfour"


@pytest.mark.parametrize(("text", "newline"), [("\nthink", "\n"), ("\nthin\n", "")])
def test_a_cut_has_the_phrase_and_a_newline_where_one_is_missing(text: str, newline: str) -> None:
    got = forced([text, "four<|im_end|>"], of(6))
    assert after_the_prompt(got) == f"{text}{newline}<|im_start|>answer\nFinal Answer:four"


def test_every_round_has_the_full_limit_and_the_rest_is_cut_off_afterwards() -> None:
    got = forced(["12345<|im_start|>", "67890<|im_end|>", "x<|im_start|>", "y<|im_end|>"], of(8, 2, ""))
    assert got.text_of("thinking") == "12345678"
    # Quirk: the last round ended by itself, so the cut in mid-sentence gets no newline and no phrase.
    assert (got.text_of("delimiter"), got.answer) == ("<|im_start|>answer", "y")
    assert got.cut


def test_the_newline_is_judged_on_the_text_before_the_cut() -> None:
    got = forced(["123<|im_start|>", "567\n", "y<|im_end|>"], of(4, 1, ""))
    assert got.text_of("thinking") == "1235"
    assert (got.text_of("delimiter"), got.answer) == ("<|im_start|>answer\nFinal Answer:", "y")


def test_an_end_of_turn_is_suppressed_too() -> None:
    got = forced(["1\n<|im_end|>", "2<|im_start|>", "y<|im_end|>"], of(20, 1))
    assert got.text_of("thinking") == "1\nWait2"
    assert got.waits == 1


def test_the_delimiter_may_not_come_first_in_any_round_with_waits() -> None:
    got = forced(["<|im_start|>1<|im_start|>", "<|im_start|>2<|im_start|>", "y<|im_end|>"], of(20, 1))
    assert got.text_of("thinking") == "1Wait2"
    assert forced(["<|im_start|>1", "y<|im_end|>"], of(20)).text_of("thinking") == ""


def test_thinking_cut_to_nothing_still_has_an_answer() -> None:
    assert after_the_prompt(forced(["4<|im_end|>"], of(0))) == "\n<|im_start|>answer\nFinal Answer:4"
