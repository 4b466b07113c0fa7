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

SAME = {
    "fractions": [
        (r"\frac12", "0.5"),
        (r"\dfrac{3}{4}", "3/4"),
        (r"\frac 34", r"\tfrac{3}{4}"),
        (r"\frac1{6}", "1/6"),
        (r"1\frac{4}{5}", "9/5"),
        (r"1\frac{4}{5}", "1 4/5"),
        (r"-1\frac12", "-1.5"),
        (r"-\frac{1}{2}", r"\frac{-1}{2}"),
        (r"\frac{1}{12}", "0.0833333333333333"),
        (r"\frac{3}{4}", "¾"),
        ("1", r"\frac{3}{3}"),
    ],
    "radicals": [
        (r"\sqrt{12}", r"2\sqrt3"),
        (r"\sqrt 2+\sqrt 5", r"\sqrt{5}+\sqrt{2}"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
        (r"\sqrt[3]{2}", "2^{1/3}"),
        (r"10\sqrt{2}", "10√2"),
        (r"\frac{5\sqrt{42}}{27}", r"\frac{10\sqrt{10.5}}{27}"),
    ],
    "lists and sets": [
        ("1,2", "2,1"),
        (r"\{1,2\}", r"\left\{2, 1\right\}"),
        ("1,2", r"\{2,1\}"),
        ("8, 9", "9 and 8"),
        (r"12\text{ and }13", "12,13"),
        (r"x = 2 \text{ or } x = 3", "2,3"),
        ("1, 2, and 3", "3; 2; 1"),
        (r"1 \pm \sqrt{19}", r"1-\sqrt{19} \text{ and } 1+\sqrt{19}"),
        (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5"),
        (r"\pm 3", "3, -3"),
        (r"$f(x)=x$,$f(x)=2-x$", "f(x) = 2-x, f(x) = x"),
        ("(-3,2), (3,-2)", r"\{(3,-2), (-3,2)\}"),
        (r"\emptyset", r"\varnothing"),
    ],
    "tuples and intervals": [
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\pi/2)"),
        (r"(1,\frac{9}{2})", "(1.0,4.5)"),
        ("(x,y)=(1,2)", "(1,2)"),
        (r"\langle 1,2 \rangle", "(1, 2)"),
        ("(a,b]", r"\left(a, b\right]"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(3,+\infty)\cup(-\infty,2)"),
        ("[-2,7]", r"x \in [-2,7]"),
        (r"\{-1\} \cup [0,7)", r"[0,7) \cup \{-1\}"),
        (r"(-\infty,3]", r"x\leq 3"),
        (r"0<c<1", "(0,1)"),
    ],
    "matrices": [
        (
            r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}",
            r"\begin{bmatrix} 0.2 \\ -\frac{18}{5} \\ \end{bmatrix}",
        ),
        (
            r"\begin{pmatrix}1 & 2 \\3 & 4\end{pmatrix}",
            r"\left[\begin{array}{cc}1 & 2 \\3 & 4\end{array}\right]",
        ),
        (
            r"\begin{pmatrix}\frac{1}{3\sqrt[3]{x}^2}&0\\-\sin(x)&1\\\end{pmatrix}",
            r"\begin{pmatrix}\frac{1}{3x^{2/3}}&0\\-\sin(x)&1\end{pmatrix}",
        ),
    ],
    "percent, currency, thousands, units": [
        (r"50\%", "50"),
        (r"50\%", "0.5"),
        ("50", r"50\%"),
        (r"28\%", "28 percent"),
        (r"\$18.90", "18.9"),
        ("18.90", r"\$18.90"),
        ("1000", "1,000"),
        (r"10,\!080", "10080"),
        ("14{,}916", "14916"),
        ("1000", "1 000"),
        ("1000.99", "1,000.99€"),
        ("2.74", "2,74"),
        ("10", r"10\text{ cm}"),
        (r"15\mbox{ cm}^2", "15"),
        (r"125\textnormal{ miles}", "125 miles"),
        (r"3\text{ treeks}", "3"),
        (r"6 \text{ inches}", r"6\text{ in}"),
        (r"90^\circ", "90"),
        (r"126^{\circ}", "126°"),
        ("2500000", r"2.5 \text{ million}"),
    ],
    "words": [
        (r"\text{Evelyn}", "evelyn"),
        (r"\text{Yes}", "yes"),
        (r"\text{(E)}", "E"),
        ("no solution", r"\text{No solution}."),
        ("odd $n$", "odd n"),
    ],
    "equations and relations": [
        ("5", "x = 5"),
        ("x=5", "5"),
        ("5", "m+n=5"),
        ("y = -2x", "-2x"),
        (r"1/3", r"x=1/3\approx 1.3"),
        ("11", r"x\approx 11"),
        ("34x+45y-20z+100=0", "-34x-45y+20z-100=0"),
        ("2x+4y-3=0", r"y=-\frac{1}{2}x+\frac{3}{4}"),
        ("x >= 5", r"5 \leq x"),
        ("x < 1", "-x > -1"),
    ],
    "expressions": [
        ("5x+3", "3+5x"),
        ("3s^2", "3*s**2"),
        ("7(x+3)(x-3)", "7*(x - 3)*(x + 3)"),
        (r"\frac{x+2}{7}", r"\frac{x}{7}+\frac{2}{7}"),
        (r"\tan^2(y)+1", r"\sec^2(y)"),
        (r"2 \sin b \cos a", r"2\cos a\sin b"),
        ("6 - 5i", "-5i+6"),
        ("20", "10 - 10*i**2"),
        (r"\binom{2n}{n}", r"\frac{(2n)!}{n!^2}"),
        (r"12 \times 2^{2022} - 24", "12(2^{2022}-2)"),
        (r"\lfloor \log_2 n \rfloor + 1", r"1+\left\lfloor\log_2 n\right\rfloor"),
        ("x^{10}", "x^10"),
        ("x²", "x^2"),
    ],
    "numbers": [
        ("023", "23"),
        (r"1.2\times 10^5", "120000"),
        ("1.2e5", r"1.2 \cdot 10^{5}"),
        ("10^{-3}", "0.001"),
        (r"\infty", r"+\infty"),
        ("4210_5", "4210_{5}"),
        ("4210_5", "4210"),
        ("-5", "−5"),
        ("0.4", ".4"),
        (r"$\boxed{5}$", "5."),
        (r"x \in \boxed{[0,7)}", "[0,7)"),
    ],
}

DIFFERENT = {
    "order and brackets": [
        ("(1,2)", "(2,1)"),
        ("(0,1)", "[0,1]"),
        ("(0,1)", "[0,1)"),
        ("[1,2]", "[2,1]"),
        (r"(-\infty,2)", r"(-\infty,2]"),
        (r"(-\infty, 2) \cup (3, \infty)", r"(-\infty, 2) \cup (4, \infty)"),
        (r"[1,2]\cup[3,4]", "[1,4]"),
        ("[2,5)", "2<x<5"),
    ],
    "digits": [
        ("1", "12"),
        ("12", "1,2"),
        ("1,2", "12"),
        ("14/5", "1 4/5"),
        ("2^{20}", "220"),
        ("34", "3^4"),
        ("1,234", "1.234"),
        ("0", "10^{-8}"),
        ("0.0000014", r"\sqrt{2}\cdot 0.000001"),
        ("100", "99.999"),
        ("10", "10!"),
        ("1.0", "10"),
    ],
    "parts": [
        ("1,2", "1"),
        ("1", "1,2"),
        ("1,2", "1,2,3"),
        ("1,-2", "1,-3"),
        ("1,2", "1,1,2"),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}"),
        (r"\{1,2\}", r"\{1,3\}"),
        (r"\emptyset", r"\{0\}"),
        ("(0,1,1),(0,-1,-1)", "(0,1,1),(0,-1,1)"),
        (r"1\sqrt{19}", "1"),
        ("x+2n+1", "x+1"),
        ("(a+5)(b+2)", "(+5)(b+2)"),
    ],
    "rounding": [
        ("1/3", "0.33"),
        ("11/2", "5.51"),
        (r"\pi", "3.14"),
        (r"\sqrt{2}", "1.4"),
        ("2.7", r"\frac{8}{3}"),
    ],
    "signs and sizes": [
        ("2", "-2"),
        (r"\infty", r"-\infty"),
        ("6 - 5i", "6+5i"),
        ("x-y", "y-x"),
        ("0.5", "50"),
        ("28", "28/100"),
        (r"50\%", "5"),
        (r"50\%", "0.05"),
        (r"1.2\times 10^5", r"1.2\times 10^4"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}", r"\begin{pmatrix}1 & 2 \\ 3 & 5\end{pmatrix}"),
        (r"\begin{pmatrix}1 & 2\end{pmatrix}", r"\begin{pmatrix}1 \\ 2\end{pmatrix}"),
        (r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}", r"\begin{vmatrix}1 & 2 \\ 3 & 4\end{vmatrix}"),
    ],
    "relations": [
        ("x > 5", "x < 5"),
        (r"x \geq 5", "x > 5"),
        ("x=1", "y=1"),
        ("7 = 11a+c", "11a+c"),
        ("a+3z=0", "0"),
        ("f(x)=x", "f(x)=-x"),
        ("3", "x>3"),
    ],
    "words, units and bases": [
        (r"\text{Evelyn}", "Eve"),
        (r"\text{cat}", "act"),
        ("yes", "no"),
        ("5", "five"),
        ("5", "I don't know"),
        ("5 cm", "5 m"),
        (r"5\text{ dollars}", "5 cents"),
        ("4210_5", "4210_6"),
        ("10", "10_2"),
        ("52_8", "42"),
    ],
    "malformed or empty": [
        ("", ""),
        ("", "5"),
        ("5", " "),
        (r"\frac{1}{", "2"),
        ("((((((((", "3"),
        (r"\begin{pmatrix}1", "1"),
        (r"\boxed{", "2"),
        ("$", "$$$"),
    ],
}


@pytest.mark.parametrize(
    ("gold", "answer"), [pair for pairs in SAME.values() for pair in pairs], ids=lambda text: text[:24]
)
def test_answers_that_say_the_same_are_equal(gold: str, answer: str) -> None:
    assert equivalent(gold, answer), compare(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"), [pair for pairs in DIFFERENT.values() for pair in pairs], ids=lambda text: text[:24]
)
def test_answers_that_differ_are_not_equal(gold: str, answer: str) -> None:
    assert not equivalent(gold, answer), compare(gold, answer)


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
