"""Answers that say the same are equal, and others are not."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import slowness

from s1.errors import BadConfig
from s1.grading import compare, equivalent
from s1.grading.normal import clean, number


@pytest.mark.parametrize(("gold", "answer"), [("", ""), ("", "5"), ("5", " "), ("\t", "\n")])
def test_an_empty_answer_equals_nothing(gold: str, answer: str) -> None:
    assert compare(gold, answer) == (False, "empty")


@pytest.mark.parametrize(
    ("gold", "answer", "kind", "equal"),
    [
        ("025", "25", "integer", True),
        ("25", "25.0", "integer", True),
        ("25", r"\frac{50}{2}", "integer", True),
        ("25", "250", "integer", False),
        ("B", r"\text{(B)}", "choice", True),
        ("B", "b) 12", "choice", True),
        ("AC", "A and C", "choice", True),
        ("AC", "A", "choice", False),
        ("A", "12", "choice", False),
        ("New York", "new  york.", "text", True),
        ("New York", "York", "text", False),
        ("1.5", "15", "text", False),
        ("a b", "a  b", "exact", True),
        ("a b", "A b", "exact", False),
        ("023", "23", "exact", False),
    ],
)
def test_each_kind_has_its_own_equality(gold: str, answer: str, kind: str, equal: bool) -> None:
    assert equivalent(gold, answer, kind) is equal


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(BadConfig, match="maths"):
        equivalent("1", "1", "maths")


@given(
    st.fractions(max_denominator=999),
    st.sampled_from(["{n}/{d}", "\\frac{{{n}}}{{{d}}}", "$\\dfrac{{{n}}}{{{d}}}$"]),
)
def test_every_spelling_of_a_fraction_is_read_exactly(value: Fraction, spelling: str) -> None:
    text = spelling.format(n=value.numerator, d=value.denominator)
    found = number(clean(text))
    assert found is not None and found.value == value


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_equal_only_to_themselves(left: int, right: int) -> None:
    assert equivalent(f"{left:,}", str(right)) == (left == right)


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_lists_have_no_order_and_tuples_do(items: list[int], random: object) -> None:
    mixed = sorted(items, key=lambda _: random.random())  # type: ignore[attr-defined]
    gold, answer = (", ".join(map(str, numbers)) for numbers in (items, mixed))
    assert equivalent(gold, answer)
    assert equivalent(f"({gold})", f"({answer})") == (items == mixed)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="0123x(){}[]\\$%,.=+-^_ fracsqtboxed&<>\u221e", max_size=40))
def test_no_text_raises_and_every_text_equals_itself(text: str) -> None:
    assert equivalent(text, text, timeout=1.0) == bool(text.strip()) or not clean(text)
    compare("7", text, timeout=1.0)


@pytest.mark.parametrize("piece", ["{", "(", r"\frac{", "1,", "x=", "and "])
def test_long_malformed_text_stays_within_the_time_limit(piece: str) -> None:
    text = (piece * 1900)[:1900]
    before = time.thread_time()
    compare("7" + text, text + "8", timeout=0.5)
    assert time.thread_time() - before < 5 * slowness()
