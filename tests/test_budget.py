"""What budget forcing must hold (section 3.1), over random policies and models, and each rule by itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from token_model import FORMATS, PROMPT, SPELLED, TAGS, TokenModel, force, run

from s1.budget import SENTENCE_ENDS, Forcing
from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig, BadInput
from s1.formats import ThinkingFormat, get_format
from s1.loops import LOOP_PERIOD, LOOP_REPEATS, LOOP_STEP, LOOP_TOKENS, ends_in_loop
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Chunk, Continuation, Generation, Sampling, texts_of

MANY = settings(max_examples=600, derandomize=True, deadline=None, database=None)
SOME = settings(MANY, max_examples=200)
FEW = settings(MANY, max_examples=30)

WAITS = ("Wait", "", "Hmm é", "W", "\n")


@st.composite
def policies(draw: st.DrawFn, official: bool = False) -> BudgetPolicy:
    most = draw(st.none() | st.integers(0, 3) | st.integers(0, 60))
    wait = tuple(draw(st.lists(st.sampled_from(WAITS), min_size=1, max_size=3)))
    common = BudgetPolicy(
        max_thinking=most,
        waits=draw(st.integers(0, 4)),
        wait=wait,
        max_answer=draw(st.none() | st.integers(0, 1) | st.integers(2, 20)),
    )
    if official:
        return replace(common, wait=wait[:1], profile="official")
    return replace(
        common,
        min_thinking=draw(st.just(0) | st.integers(0, 60 if most is None else most)),
        cue=draw(st.sampled_from(("cut", "always", "never"))),
        transition=draw(st.sampled_from(("", "", " So. ", "é")) if most is None or most > 5 else st.just("")),
        grace=draw(st.just(0) | st.integers(0, 12)),
        on_eos_in_thinking=draw(st.sampled_from(("delimiter", "answer"))),
        on_loop=draw(st.sampled_from(("ignore", "end", "wait"))),
    )


def same(a: Generation, b: Generation) -> bool:
    unmeasured = {"seconds": 0.0, "first_token_seconds": None}
    return replace(a, **unmeasured) == replace(b, **unmeasured)


def ids_of(generation: Generation) -> tuple[int, ...]:
    return tuple(i for s in generation.segments for i in s.token_ids)


@MANY
@given(
    policies(),
    st.integers(0, 999),
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from(FORMATS),
    st.integers(0, 90),
)
def test_every_request_keeps_every_rule(
    policy: BudgetPolicy, seed: int, ends_in: int, chunk: int, fmt: ThinkingFormat, spare: int
) -> None:
    context = 140 + len(PROMPT) + spare
    engine = TokenModel(seed, ends_in=ends_in, chunk=chunk, context=context)
    encoded = encode_prompt(engine, fmt, policy, PROMPT)
    got = force(engine, policy, fmt)
    thinking = [s for s in got.segments if s.phase == "thinking"]
    delimiter = [s for s in got.segments if s.phase == "delimiter"]
    answer = [s for s in got.segments if s.phase == "answer"]
    everything = ids_of(got)

    assert got.error is None and got.finish is not None
    assert got.cut == (got.cut_by is not None)
    # the budget
    if policy.max_thinking is not None:
        assert got.thinking_tokens <= policy.max_thinking + got.grace_used
    assert got.grace_used <= policy.grace
    if policy.on_eos_in_thinking == "delimiter":
        assert got.thinking_tokens >= policy.min_thinking
    assert policy.max_answer is None or got.answer_tokens <= policy.max_answer
    assert len(everything) <= context
    # the waits
    if not policy.min_thinking:
        assert got.waits <= policy.waits
    # the generation
    assert got.thinking_tokens == sum(len(s.token_ids) for s in thinking)
    assert got.answer_tokens == sum(len(s.token_ids) for s in answer)
    forced = [s for s in got.segments if s.by == "forced"]
    assert got.forced_tokens == sum(len(s.token_ids) for s in forced)
    assert "".join(s.text for s in got.segments) == engine.decode(everything)
    assert got.segments == (got.segments[0], *thinking, *delimiter, *answer)
    assert {s.by for s in answer} <= {"model"} and got.segments[0].by == "format"
    assert got.segments[0].token_ids == encoded.prompt
    # an answer phase, opened by the delimiter, with the cue after a cut only
    opened = tuple(i for s in delimiter for i in s.token_ids)
    before = engine.decode((*encoded.prompt, *(i for s in thinking for i in s.token_ids)))
    newline = encoded.newline if fmt.newline and not before.endswith("\n") else ()
    with_cue = policy.cue == "always" or (policy.cue == "cut" and got.cut)
    assert opened == newline + encoded.close + (encoded.cue if with_cue else ())
    # a cut says its transition
    if got.cut and encoded.transition:
        assert thinking[-1].token_ids[-len(encoded.transition) :] == encoded.transition
    # every request went on from all tokens so far
    for request in engine.asked:
        assert request.prefix == everything[: len(request.prefix)]
    lengths = [len(request.prefix) for request in engine.asked]
    assert lengths == sorted(lengths)


@MANY
@given(
    st.booleans().flatmap(policies),
    st.integers(0, 999),
    st.integers(1, 30),
    st.lists(st.integers(1, 40), min_size=2, max_size=2),
    st.sampled_from(FORMATS),
)
def test_chunks_change_nothing(
    policy: BudgetPolicy, seed: int, ends_in: int, sizes: list[int], fmt: ThinkingFormat
) -> None:
    if policy.profile == "official" and fmt is SPELLED:
        fmt = TAGS  # the official minimum needs single tokens (section 3.4)
    one, other = (force(TokenModel(seed, ends_in=ends_in, chunk=size), policy, fmt) for size in sizes)
    assert same(one, other)


@SOME
@given(st.booleans().flatmap(policies), st.integers(0, 99), st.integers(1, 20))
def test_asking_twice_changes_nothing(policy: BudgetPolicy, seed: int, ends_in: int) -> None:
    engine = TokenModel(seed, ends_in=ends_in)
    forcing = Forcing(encode_prompt(engine, TAGS, policy, PROMPT))
    assert forcing.ask() == forcing.ask()


# --- each rule by itself --------------------------------------------------------------------------------


def thinking_of(generation: Generation) -> str:
    return generation.text_of("thinking")


def test_a_natural_end_gets_the_delimiter_and_no_cue() -> None:
    got = force(ScriptedEngine(["think\n</think>", "four<|end|>"]), BudgetPolicy(max_thinking=100))
    assert thinking_of(got) == "think\n"
    assert (got.text_of("delimiter"), got.answer) == ("</think>\n\n", "four")
    assert (got.cut, got.waits, got.finish) == (False, 0, "stop")


def owners(generation: Generation) -> list[tuple[str, str]]:
    """Who wrote what between thinking and answer."""
    return [(s.by, s.text) for s in generation.segments if s.phase == "delimiter"]


@pytest.mark.parametrize(
    ("fmt", "thinking", "owned"),
    [
        (get_format("petri"), "so 7</think>", [("model", "</think>")]),
        (get_format("think"), "so 7\n</think>", [("model", "</think>"), ("format", "\n\n")]),
        (get_format("think"), "so 7</think>", [("format", "\n"), ("model", "</think>"), ("format", "\n\n")]),
        (get_format("s1"), "so 7\n<|im_start|>", [("model", "<|im_start|>"), ("format", "answer\n")]),
        (get_format("think"), "so 7\n<|end|>", [("forced", "</think>\n\n")]),
        (
            get_format("harmony"),
            "so 7<|channel|>",
            [("format", "<|end|><|start|>assistant<|channel|>final<|message|>")],
        ),
    ],
    ids=["all", "newlines after", "newlines around", "s1", "end of turn", "another block"],
)
def test_the_end_that_the_model_chose_is_the_models(
    fmt: ThinkingFormat, thinking: str, owned: list[tuple[str, str]]
) -> None:
    got = force(ScriptedEngine([thinking, "7<|end|>"]), BudgetPolicy(), fmt)
    assert owners(got) == owned
    assert (got.forced_tokens > 0) == any(by == "forced" for by, _ in owned)


def test_an_end_at_the_limit_and_its_cue_are_forced() -> None:
    got = force(ScriptedEngine(["thinking on and on", "four<|end|>"]), BudgetPolicy(max_thinking=8))
    assert owners(got) == [("forced", "\n</think>\n\nFinal Answer:")]


def test_a_cut_gets_the_delimiter_on_its_own_line_and_the_cue() -> None:
    got = force(ScriptedEngine(["thinking on and on", "four<|end|>"]), BudgetPolicy(max_thinking=8))
    assert thinking_of(got) == "thinking"
    assert (got.text_of("delimiter"), got.answer) == ("\n</think>\n\nFinal Answer:", "four")
    assert got.cut


def test_an_end_of_turn_while_thinking_still_gets_an_answer() -> None:
    got = force(ScriptedEngine(["done<|end|>", "four<|end|>"]), BudgetPolicy(max_thinking=100))
    assert thinking_of(got) == "done"
    assert (got.text_of("delimiter"), got.answer) == ("\n</think>\n\n", "four")


def test_an_end_of_turn_while_thinking_is_suppressed_like_a_delimiter() -> None:
    got = force(ScriptedEngine(["one<|end|>", " two</think>", "x<|end|>"]), BudgetPolicy(waits=1))
    assert thinking_of(got) == "oneWait two"
    assert got.waits == 1


def test_an_end_of_turn_while_thinking_may_go_to_the_answer_at_once() -> None:
    policy = BudgetPolicy(waits=2, min_thinking=20, on_eos_in_thinking="answer")
    got = force(ScriptedEngine(["one</think>", " two<|end|>", "x<|end|>"]), policy)
    assert thinking_of(got) == "oneWait two"
    assert (got.waits, got.cut, got.finish) == (1, False, "stop")


def test_a_delimiter_at_once_is_an_empty_thinking() -> None:
    got = force(ScriptedEngine(["</think>", "four<|end|>"]), BudgetPolicy(max_thinking=100))
    assert (got.thinking_tokens, got.cut) == (0, False)
    assert (got.text_of("delimiter"), got.answer) == ("</think>\n\n", "four")


@pytest.mark.parametrize("limit", [0, 1])
def test_the_smallest_limits_are_kept(limit: int) -> None:
    got = force(
        ScriptedEngine(lambda prefix: "abc" if "Final" not in prefix else "4<|end|>"),
        BudgetPolicy(max_thinking=limit),
    )
    assert (got.thinking_tokens, got.cut) == (limit, True)
    assert got.text_of("delimiter").endswith("Final Answer:") and got.answer == "4"


def test_no_room_for_an_answer_asks_for_none() -> None:
    engine = ScriptedEngine(["think</think>", "not needed"])
    got = force(engine, BudgetPolicy(max_answer=0))
    assert (got.answer_tokens, got.finish, got.error) == (0, "length", None)
    assert len(engine.asked) == 1


def test_waits_are_appended_in_turn_and_count_as_thinking() -> None:
    engine = ScriptedEngine(["a</think>", "b</think>", "c</think>", "d</think>", "4<|end|>"])
    got = force(engine, BudgetPolicy(waits=3, wait=("Wait", "Hmm")))
    assert thinking_of(got) == "aWaitbHmmcWaitd"
    assert (got.waits, got.thinking_tokens) == (3, 15)
    forced = [s.text for s in got.segments if s.phase == "thinking" and s.by == "forced"]
    assert forced == ["Wait", "Hmm", "Wait"]


def test_no_wait_is_appended_without_room_for_a_token_after_it() -> None:
    policy = BudgetPolicy(max_thinking=9, waits=1)
    assert force(ScriptedEngine(["1234</think>", "5</think>", "x<|end|>"]), policy).waits == 1
    assert force(ScriptedEngine(["12345</think>", "x<|end|>"]), policy).waits == 0


def test_after_a_wait_the_end_may_not_come_at_once() -> None:
    engine = ScriptedEngine(["a</think>", "</think>b</think>", "x<|end|>"])
    got = force(engine, BudgetPolicy(waits=1))
    assert thinking_of(got) == "aWaitb"
    assert [request.min_tokens for request in engine.asked] == [0, 1, 0]


def test_an_empty_wait_suppresses_without_text() -> None:
    got = force(ScriptedEngine(["a</think>", "b</think>", "x<|end|>"]), BudgetPolicy(waits=1, wait=("",)))
    assert thinking_of(got) == "ab"
    assert got.waits == 1


def test_an_empty_wait_with_a_minimum_masks_the_end() -> None:
    engine = ScriptedEngine(["a</think>bcdef</think>", "x<|end|>"])
    got = force(engine, BudgetPolicy(min_thinking=5, wait=("",)))
    assert thinking_of(got) == "abcdef"
    assert engine.asked[0].min_tokens == 5


def test_a_minimum_appends_waits_until_it_is_reached() -> None:
    got = force(ScriptedEngine(["a</think>", "b</think>", "x<|end|>"]), BudgetPolicy(min_thinking=6))
    assert thinking_of(got) == "aWaitb"


def test_a_minimum_without_room_for_the_wait_masks_the_end() -> None:
    engine = ScriptedEngine(["abc</think>", "d</think>efgh", "x<|end|>"])
    got = force(engine, BudgetPolicy(min_thinking=6, max_thinking=6))
    assert thinking_of(got) == "abcdef"
    assert got.waits == 0


def test_a_transition_is_appended_inside_the_budget() -> None:
    got = force(ScriptedEngine(["0123456789", "4<|end|>"]), BudgetPolicy(max_thinking=10, transition=" So"))
    assert thinking_of(got) == "0123456 So"
    assert got.thinking_tokens == 10


def test_a_natural_end_gets_no_transition() -> None:
    got = force(ScriptedEngine(["01</think>", "4<|end|>"]), BudgetPolicy(max_thinking=10, transition=" So"))
    assert thinking_of(got) == "01"


def test_a_transition_beyond_the_budget_is_refused() -> None:
    with pytest.raises(BadConfig, match="transition"):
        force(ScriptedEngine([]), BudgetPolicy(max_thinking=2, transition=" So"))


@pytest.mark.parametrize("chunk", [1, 2, 50])
def test_grace_ends_at_a_sentence(chunk: int) -> None:
    engine = ScriptedEngine(["one two", " three. Four", "4<|end|>"], chunk=chunk)
    got = force(engine, BudgetPolicy(max_thinking=7, grace=20))
    assert thinking_of(got) == "one two three."
    assert (got.grace_used, got.cut, got.thinking_tokens) == (7, True, 14)


def test_grace_is_not_exceeded_without_a_sentence_end() -> None:
    got = force(ScriptedEngine(["one two", " three four", "4<|end|>"]), BudgetPolicy(max_thinking=7, grace=3))
    assert thinking_of(got) == "one two th"
    assert got.grace_used == 3


def test_no_grace_is_used_where_the_limit_falls_on_a_sentence_end() -> None:
    got = force(ScriptedEngine(["one t. and", "4<|end|>"]), BudgetPolicy(max_thinking=6, grace=9))
    assert (thinking_of(got), got.grace_used) == ("one t.", 0)


@SOME
@given(st.integers(0, 999), st.integers(1, 20), st.integers(1, 30), st.integers(0, 40))
def test_grace_ends_early_at_a_sentence_or_an_end_only(seed: int, chunk: int, grace: int, most: int) -> None:
    engine = TokenModel(seed, ends_in=60, chunk=chunk)
    got = force(engine, BudgetPolicy(max_thinking=most, grace=grace))
    if not 0 < got.grace_used < grace:
        return
    in_grace = next(
        request for request in engine.asked if len(request.prefix) == len(got.segments[0].token_ids) + most
    )
    token = engine.next(ids_of(got)[: len(in_grace.prefix) + got.grace_used], in_grace)
    ended = (token,) in {stop.ids for stop in in_grace.stops}
    assert ended or thinking_of(got).rstrip(" ").endswith(SENTENCE_ENDS)


def test_without_a_limit_the_context_is_used_up_and_an_answer_still_fits() -> None:
    got = force(ScriptedEngine(lambda prefix: "x" * 500, context=90), BudgetPolicy(max_answer=7))
    assert got.cut and len(ids_of(got)) == 90
    assert got.answer_tokens == 7


def test_without_a_limit_grace_stays_inside_the_context() -> None:
    engine = ScriptedEngine(lambda prefix: "x" * 500, context=120)
    got = force(engine, BudgetPolicy(grace=30, max_answer=2))
    assert got.error is None and len(ids_of(got)) == 120
    assert got.grace_used == 30


def test_a_prompt_beyond_the_context_is_refused() -> None:
    with pytest.raises(BadInput, match="does not fit the context of 20"):
        force(ScriptedEngine([], context=20), BudgetPolicy())


def test_a_limit_beyond_the_context_is_refused() -> None:
    with pytest.raises(BadConfig, match="max_thinking 200"):
        force(ScriptedEngine([], context=100), BudgetPolicy(max_thinking=200))


def test_a_minimum_beyond_the_context_is_refused() -> None:
    with pytest.raises(BadConfig, match="min_thinking 200"):
        force(ScriptedEngine([], context=100), BudgetPolicy(min_thinking=200))


def test_a_prompt_that_opens_without_a_newline_gets_one_before_the_delimiter() -> None:
    fmt = ThinkingFormat("bare", "<think>", "</think>\n\n", ("</think>",), newline=True)
    got = force(ScriptedEngine(["</think>", "4<|end|>"]), BudgetPolicy(), fmt)
    assert (got.text_of("delimiter"), got.answer) == ("\n</think>\n\n", "4")


def test_multi_byte_characters_across_segments_keep_their_text() -> None:
    got = force(ScriptedEngine(["aé", "4<|end|>"], chunk=1), BudgetPolicy(max_thinking=2))
    assert "".join(s.text for s in got.segments).endswith("a\ufffd\n</think>\n\nFinal Answer:4")
    assert thinking_of(got) == "a\ufffd"  # what is never completed stays where it began
    whole = force(ScriptedEngine(["a€</think>", "4<|end|>"], chunk=1), BudgetPolicy(max_thinking=4))
    assert thinking_of(whole) == "a€"


@SOME
@given(st.lists(st.lists(st.sampled_from(list("aé€😀\ufffd".encode()) + [0xFF]), max_size=5), max_size=6))
def test_texts_of_parts_join_to_the_text_of_the_whole(parts: list[list[int]]) -> None:
    decode = ScriptedEngine([]).decode
    assert "".join(texts_of(parts, decode)) == decode([i for part in parts for i in part])


# --- loops ----------------------------------------------------------------------------------------------


class LoopingModel(TokenModel):
    """Writes one phrase for ever.

    `phrase` is how many tokens it repeats, `before` how many come first.
    """

    def __init__(self, seed: int, *, phrase: int, before: int, chunk: int = 3) -> None:
        super().__init__(seed, ends_in=10_000, chunk=chunk, context=1_000)
        self._phrase, self._before = phrase, before

    def next(self, ids: Sequence[int], request: Continuation, masked: frozenset[int] = frozenset()) -> int:
        place = len(ids) - len(PROMPT)
        if "Final Answer:" in self.decode(ids[-20:]):
            return self.encode("<|end|>")[0]
        return 65 + place % self._phrase % 26 if place >= self._before else 97 + place * 7 % 23


@FEW
@given(st.integers(1, LOOP_PERIOD), st.integers(0, 80), st.lists(st.integers(1, 70), min_size=2, max_size=2))
def test_thinking_that_repeats_itself_is_cut_soon_and_says_why(
    phrase: int, before: int, sizes: list[int]
) -> None:
    policy = BudgetPolicy(max_thinking=600, on_loop="end")
    one, other = (force(LoopingModel(0, phrase=phrase, before=before, chunk=size), policy) for size in sizes)
    assert same(one, other)
    assert (one.cut, one.cut_by, one.finish) == (True, "loop", "stop")
    assert one.thinking_tokens <= before + max(LOOP_TOKENS, LOOP_REPEATS * phrase) + 2 * LOOP_STEP
    natural = force(LoopingModel(0, phrase=phrase, before=before), BudgetPolicy(max_thinking=600))
    assert (natural.cut_by, natural.thinking_tokens) == ("limit", 600)
    assert natural.thinking.startswith(one.thinking)


@pytest.mark.parametrize(("waits", "tried"), [(0, 0), (2, 2)])
def test_a_loop_may_be_answered_with_the_next_wait_while_waits_are_left(waits: int, tried: int) -> None:
    policy = BudgetPolicy(max_thinking=600, waits=waits, wait=("Wait", "Hmm"), on_loop="wait")
    got = force(LoopingModel(0, phrase=5, before=9), policy)
    assert (got.waits, got.cut_by) == (tried, "loop")
    forced = [s.text for s in got.segments if s.phase == "thinking" and s.by == "forced"]
    assert forced == ["Wait", "Hmm"][:tried]


def test_a_loop_is_not_cut_below_the_minimum() -> None:
    got = force(LoopingModel(0, phrase=5, before=9), BudgetPolicy(min_thinking=500, on_loop="end"))
    assert got.cut_by == "loop" and 500 <= got.thinking_tokens < 700


@SOME
@given(st.lists(st.integers(0, 3), min_size=LOOP_TOKENS, max_size=300), st.integers(1, LOOP_PERIOD))
def test_a_loop_is_what_its_definition_says(ids: list[int], period: int) -> None:
    ids += (ids[-period:] * LOOP_TOKENS)[: LOOP_TOKENS + 3 * period]

    def repeated(period: int) -> bool:
        span = max(LOOP_TOKENS, LOOP_REPEATS * period)
        return len(ids) >= span and all(ids[-n] == ids[-n - period] for n in range(1, span - period + 1))

    assert ends_in_loop(ids) == any(repeated(p) for p in range(1, LOOP_PERIOD + 1))


# --- turned while it runs -----------------------------------------------------------------------------------


def turned(policy: BudgetPolicy, seed: int, at: int, fmt: ThinkingFormat = TAGS, chunk: int = 3, **turn):
    """The generation of a request that is turned when it has thought `at` tokens or more, and whether it was."""
    model = TokenModel(seed, ends_in=12, chunk=chunk)
    forcing = Forcing(encode_prompt(model, fmt, policy, PROMPT), Sampling(1.0, seed=1))
    found: list[int] = []

    def watch(forcing: Forcing) -> None:
        if not found and forcing.phase == "thinking" and len(forcing.thinking) >= at:
            found.append(len(forcing.thinking))
            forcing.turn(**turn)

    return run(drive(forcing, model, watch=watch)), found


def sampled(policy: BudgetPolicy, seed: int, fmt: ThinkingFormat = TAGS) -> Generation:
    return force(TokenModel(seed, ends_in=12), policy, fmt, Sampling(1.0, seed=1))


def written(generation: Generation) -> tuple[int, ...]:
    return ids_of(generation)


BASIC = st.builds(
    BudgetPolicy,
    max_thinking=st.integers(20, 60),
    waits=st.integers(0, 3),
    wait=st.sampled_from((("Wait",), ("Hmm", "Wait"), ("",))),
    grace=st.sampled_from((0, 7)),
    transition=st.sampled_from(("", " So.")),
    max_answer=st.just(9),
)


@SOME
@given(BASIC, st.integers(0, 99), st.integers(0, 15), st.integers(1, 9), st.integers(16, 90))
def test_a_request_whose_limit_is_turned_is_one_that_had_the_limit_from_the_start(
    policy: BudgetPolicy, seed: int, at: int, chunk: int, limit: int
) -> None:
    got, found = turned(policy, seed, at, chunk=chunk, max_thinking=limit)
    if not found:
        return
    if found[0] < min(limit, policy.max_thinking or 0) - 8:  # nothing has depended on the limit yet
        assert written(got) == written(sampled(replace(policy, max_thinking=limit), seed))
    most = max(limit, found[0] + len(policy.transition))
    assert got.error is None and got.thinking_tokens <= most + got.grace_used


@SOME
@given(BASIC, st.integers(0, 99), st.integers(0, 40), st.integers(1, 9), st.sampled_from(FORMATS))
def test_answer_now_cuts_at_the_tokens_seen_so_far(
    policy: BudgetPolicy, seed: int, at: int, chunk: int, fmt: ThinkingFormat
) -> None:
    policy = replace(policy, min_thinking=20)
    got, found = turned(policy, seed, at, fmt, chunk, answer_now=True)
    if found:
        assert (got.cut_by, got.error) == ("answer_now", None) and got.finish is not None
        assert got.thinking_tokens == found[0] + len(policy.transition)
        assert got.segments[-1].phase in ("delimiter", "answer")


@SOME
@given(BASIC, st.integers(0, 99), st.integers(1, 9))
def test_a_wait_that_is_asked_for_is_one_more_wait(policy: BudgetPolicy, seed: int, chunk: int) -> None:
    got, found = turned(policy, seed, 1, chunk=chunk, wait=True)
    if found:  # waits are appended at ends only, and the first token is none
        assert written(got) == written(sampled(replace(policy, waits=policy.waits + 1), seed))


def test_a_turn_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    policy = BudgetPolicy(max_thinking=30, min_thinking=10, max_answer=5)
    for wrong, word in (({"max_thinking": 5}, "min_thinking"), ({"max_thinking": 900}, "max_thinking 900")):
        with pytest.raises(BadConfig, match=word):
            turned(policy, 0, 3, **wrong)
    forcing = Forcing(encode_prompt(TokenModel(), TAGS, BudgetPolicy(profile="official"), PROMPT))
    with pytest.raises(BadConfig, match="official"):
        forcing.turn(wait=True)


def test_thinking_that_is_over_cannot_be_turned() -> None:
    engine = TokenModel()
    forcing = Forcing(encode_prompt(engine, TAGS, BudgetPolicy(max_thinking=9), PROMPT))
    run(drive(forcing, engine))
    with pytest.raises(BadConfig, match="over"):
        forcing.turn(answer_now=True)


# --- policies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_thinking", -1), ("min_thinking", -1), ("waits", -2), ("max_answer", -1), ("grace", -1)],
)
def test_a_negative_number_is_refused_by_name(field: str, value: int) -> None:
    with pytest.raises(BadConfig, match=f"{field} is {value}"):
        BudgetPolicy(**{field: value})


def test_contradictions_are_refused() -> None:
    with pytest.raises(BadConfig, match="min_thinking 5 is above max_thinking 4"):
        BudgetPolicy(max_thinking=4, min_thinking=5)
    with pytest.raises(BadConfig, match="wait"):
        BudgetPolicy(wait=())
    with pytest.raises(BadConfig, match="official"):
        BudgetPolicy(profile="official", min_thinking=1)


def test_a_wait_given_as_one_string_is_refused() -> None:
    with pytest.raises(BadConfig, match="tuple"):
        BudgetPolicy(wait="Wait")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value"), [("cue", "sometimes"), ("profile", "strickt"), ("on_eos_in_thinking", "x")]
)
def test_an_unknown_choice_is_refused(field: str, value: str) -> None:
    with pytest.raises(BadConfig, match=f"{field} is '{value}'"):
        BudgetPolicy(**{field: value})


def labelled(policy: BudgetPolicy) -> BudgetPolicy:
    """What the label shows: everything but the answer limit and a wait string that is never appended."""
    policy = replace(policy, max_answer=None)
    return policy if policy.waits or policy.min_thinking else replace(policy, wait=("",))


@SOME
@given(st.booleans().flatmap(policies), st.booleans().flatmap(policies))
def test_policies_that_force_differently_have_other_labels(one: BudgetPolicy, other: BudgetPolicy) -> None:
    assert (one.label == other.label) == (labelled(one) == labelled(other))


def test_labels_show_the_wait_of_a_minimum_and_the_members_of_a_cycle() -> None:
    assert BudgetPolicy(min_thinking=9).label != BudgetPolicy(min_thinking=9, wait=("Hmm",)).label
    assert BudgetPolicy(waits=1, wait=("a/b",)).label != BudgetPolicy(waits=1, wait=("a", "b")).label
    assert BudgetPolicy().label == "natural"
    assert BudgetPolicy(max_thinking=512, waits=2).label == "max 512, wait 2"


# --- engines that break the protocol ------------------------------------------------------------------------


class Wrong(ScriptedEngine):
    """Answers every request with the same chunks."""

    def __init__(self, *chunks: Chunk) -> None:
        super().__init__([])
        self.chunks = chunks

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        self.asked.append(request)
        assert len(self.asked) < 1_000, "the request does not end"
        for chunk in self.chunks:
            yield chunk


@SOME
@given(policies())
def test_an_engine_that_ignores_minimums_never_makes_a_loop(policy: BudgetPolicy) -> None:
    got = force(Wrong(Chunk((), "stop")), policy)
    assert got.error is None or "min_tokens" in got.error


def test_an_engine_that_ignores_the_mask_is_recorded_as_an_error() -> None:
    got = force(Wrong(Chunk((), "stop")), BudgetPolicy(min_thinking=3, max_thinking=3))
    assert got.error is not None and "min_tokens" in got.error
    assert got.finish is None


@pytest.mark.parametrize("policy", [BudgetPolicy(max_thinking=2), BudgetPolicy(max_thinking=0, max_answer=2)])
def test_an_engine_that_gives_too_much_is_recorded_as_an_error(policy: BudgetPolicy) -> None:
    got = force(Wrong(Chunk((65, 66)), Chunk((67,), "length")), policy)
    assert got.error is not None and "more than" in got.error
    assert got.thinking_tokens <= 2


def test_an_estimated_count_may_be_off() -> None:
    got = force(Wrong(Chunk((65, 66, 67), "length", exact=False)), BudgetPolicy(max_thinking=2, max_answer=2))
    assert (got.error, got.finish, got.exact) == (None, "length", False)


def test_an_engine_that_ends_without_a_finish_is_recorded_as_an_error() -> None:
    got = force(Wrong(Chunk((65,))), BudgetPolicy())
    assert got.error is not None and got.finish is None
    assert thinking_of(got) == "A"


def test_one_inexact_chunk_marks_the_generation() -> None:
    assert not force(Wrong(Chunk((65,), "stop", exact=False)), BudgetPolicy()).exact
    assert force(Wrong(Chunk((65,), "stop")), BudgetPolicy()).exact


@pytest.mark.parametrize("value", ["12", 1.5, True])
def test_a_limit_that_is_not_a_whole_number_is_refused(value):
    with pytest.raises(BadConfig, match="max_thinking is .* whole number"):
        BudgetPolicy(max_thinking=value)
