from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s1.data.clean import clean_reasons
from s1.data.curate_settings import PETRI_CLEAN, CleanSettings
from s1.data.pool import conform

GOOD = {"id": "x", "question": "q?", "answer": "7", "thinking": "x 3 : 9 no ; yes so 7 .", "attempt": "7"}


FEATURES = ("id", "question", "answer", "source", "thinking", "attempt")


def reason(settings: CleanSettings | None = None, **row: object) -> str | None:
    return clean_reasons(conform(pl.DataFrame([{**GOOD, **row}])), settings or CleanSettings())[0]


def official(**row: object) -> str | None:
    return clean_reasons(conform(pl.DataFrame([{**GOOD, **row}])), features=FEATURES)[0]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({}, None),
        ({"thinking": None}, "no trace"),
        ({"thinking": " \n"}, "no trace"),
        ({"attempt": ""}, "empty answer"),
        ({"attempt": None}, "empty answer"),
        ({"thinking": "First I will consider the"}, "cut trace"),
        ({"thinking": "So the answer is B", "attempt": "B"}, None),
        ({"thinking": "The value is 42", "attempt": "42"}, None),
        ({"thinking": "It is \ufffd\ufffd ."}, "garbled characters"),
        ({"question": "See [asy] draw(); [/asy]"}, "picture in the question"),
        ({"question": "See ![a map](http://x/y.png)"}, "picture in the question"),
        ({"question": "p1. Find x.\np2. Find y."}, "numbered parts (p1.)"),
        ({"question": "Do step1. and then step2."}, None),
        ({"question": "**12.** Find x."}, "bold label"),
        ({"question": "Find the **largest** of 3 numbers."}, None),
        ({"question": r"\begin{align} x = 1"}, "broken LaTeX"),
        ({"thinking": "a b " + "wait " * 6 + "."}, "repetition loop"),
    ],
)
def test_strict_rules_give_their_reason(row: dict[str, object], expected: str | None) -> None:
    assert reason(**row) == expected


@pytest.mark.parametrize(
    ("thinking", "expected"),
    [
        ("quick 5 > 10 so 10 . Wait , slowly 5 * 7 = 35 not same so 7 .", None),
        ("x 3 : 15 no maybe 8 . Wait , x 4 : 7 yes so 7 .", None),
        ("x 3 : 15 no maybe 8 . Wait , x 4 : 7 yes", "cut trace"),
        ("x 3 : 15 no maybe 8 .", "stated answer differs"),
        ("x 3 : 15 no .", "no stated answer"),
        ("diff 4 4 4 4 yes so 7 .", None),
        ("diff " + "4 " * 9 + "so 7 .", "repetition loop"),
        ("x 3 " + "yes " * 6 + "so 7 .", "repetition loop"),
    ],
)
def test_petri_traces_must_end_and_agree_with_the_attempt(thinking: str, expected: str | None) -> None:
    assert reason(PETRI_CLEAN, thinking=thinking) == expected


def test_optional_rules_apply_when_asked() -> None:
    assert reason(answer=None) is None
    assert reason(CleanSettings(need_reference=True), answer=None) == "no reference answer"
    assert reason(CleanSettings(token_limit=32000), trace_tokens=32000) == "cut trace"
    assert reason(thinking="所以答案是七。") is None
    assert reason(CleanSettings(language="latin"), thinking="所以答案是七。") == "wrong language"
    assert reason(CleanSettings(language="latin"), thinking="Let α + β = 7, é la vie.") is None


def test_official_rules_have_the_side_effects_of_the_notebook() -> None:
    assert official() is None
    assert official(question="Do step1. first") == "numbered parts (p1.)"
    assert official(question="(p999.)") == "numbered parts (p1.)"
    assert official(question="p0. p1000. p 1.") is None
    assert official(question="Find the **largest** of 3 numbers.") == "bold label"
    assert official(question="[asy]", source="MATH") == "picture in the question"
    assert official(question="[asy]", source="qq8933/AIME_1983_2024") is None
    assert official(answer=None) == "missing: answer"


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="*p1 9.]a\nx", max_size=30))
def test_official_patterns_match_what_the_notebook_matches(question: str) -> None:
    labels = any(f"p{i}." in question for i in range(1, 1000))
    bold = re.search(r"\*\*(?=.*\d)[^\s\]]*\*\*", question) is not None
    expected = "numbered parts (p1.)" if labels else "bold label" if bold else None
    assert official(question=question) == expected
