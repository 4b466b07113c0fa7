"""The JSON codec loses nothing, and its errors name the field."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.errors import BadInput
from s1.formats import ThinkingFormat
from s1.policy import BudgetPolicy
from s1.types import Generation, Grade, Question, Sampling, Segment, Trace, from_json, question_id, to_json

FEW = settings(max_examples=60, derandomize=True, deadline=None, database=None)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
questions = st.builds(
    Question,
    choices=st.lists(st.text(max_size=4), max_size=3).map(tuple),
    meta=st.dictionaries(st.text(max_size=4), plain, max_size=3),
)
segments = st.builds(Segment, token_ids=st.lists(st.integers(0, 2**40), max_size=4).map(tuple))
numbers = st.floats(0, 1e6)
generations = st.builds(
    Generation, segments=st.lists(segments, max_size=3).map(tuple), seconds=numbers, cut=st.booleans()
)
values = st.one_of(
    questions,
    st.builds(Trace, question=questions),
    segments,
    generations,
    st.builds(Grade),
    st.builds(Sampling, temperature=numbers, top_p=st.floats(0.1, 1), top_k=st.integers(0, 99)),
    st.builds(
        BudgetPolicy,
        max_thinking=st.none() | st.integers(50, 99),
        min_thinking=st.integers(0, 50),
        waits=st.integers(0, 9),
        wait=st.lists(st.text(max_size=3), min_size=1, max_size=3).map(tuple),
        max_answer=st.none() | st.integers(0, 9),
        grace=st.integers(0, 9),
        profile=st.just("strict"),
    ),
    st.builds(ThinkingFormat, close=st.just("e"), stops=st.just(("e", "f"))),
)


@FEW
@given(values)
def test_a_value_survives_json(value: Any) -> None:
    assert from_json(type(value), json.loads(json.dumps(to_json(value)))) == value


class Nothing:
    """Of no type that a field wants, and no JSON value."""


@FEW
@given(values, st.data())
def test_a_mistyped_field_is_named(value: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([f.name for f in dataclasses.fields(value)]))
    with pytest.raises(BadInput, match=rf"{type(value).__name__}\.{name}: expected"):
        from_json(type(value), {**to_json(value), name: Nothing()})


@FEW
@given(values)
def test_an_unknown_field_is_named(value: Any) -> None:
    with pytest.raises(BadInput, match="unknown field 'surplus'"):
        from_json(type(value), {**to_json(value), "surplus": 1})


@FEW
@given(values, st.data())
def test_a_missing_field_is_named_or_takes_its_default(value: Any, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(dataclasses.fields(value)))
    rest = to_json(value)
    del rest[field.name]
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        with pytest.raises(BadInput, match=f"'{field.name}' is missing"):
            from_json(type(value), rest)
    elif field.default is not dataclasses.MISSING:
        read = from_json(type(value), rest)
        assert read == dataclasses.replace(value, **{field.name: field.default})


def test_a_field_deep_inside_is_named_with_its_place() -> None:
    question = {"id": "a", "text": "b", "choices": ["x", 3]}
    with pytest.raises(BadInput, match=r"Trace\.question\.choices\[1\]: expected str, found 3"):
        from_json(Trace, {"question": question, "thinking": "", "answer": ""})


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(BadInput, match=r"BudgetPolicy\.waits"):
        from_json(BudgetPolicy, {"waits": True})


@pytest.mark.parametrize("data", [[], "x", None, 3])
def test_anything_but_an_object_is_refused(data: Any) -> None:
    with pytest.raises(BadInput, match="Question: expected an object"):
        from_json(Question, data)


def test_the_id_of_a_question_depends_on_its_words_and_source_alone() -> None:
    assert question_id(" What\n is  2+2? ", "a") == question_id("what is 2+2?", "a")
    assert question_id("what is 2+2?", "a") != question_id("what is 2+2?", "b")
    assert len(question_id("x")) == 16


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"top_k": -1}])
def test_sampling_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="out of range"):
        Sampling(**wrong)


def test_the_answer_is_what_the_model_wrote_after_the_delimiter():
    segments = (
        Segment((1,), "<think>", "prompt", "format"),
        Segment((2,), " 3 + 4", "thinking", "model"),
        Segment((3,), " Wait", "thinking", "forced"),
        Segment((4,), "</think> Answer :", "delimiter", "forced"),
        Segment((5,), " 7 ", "answer", "model"),
    )
    generation = Generation("q", 0, "natural", segments, 2, 1, 3, 1, False, "stop")
    assert generation.thinking == "3 + 4 Wait" and generation.answer == "7"
    assert generation.text_of("answer") == " 7 "
