"""Pairs of answers made to exhaust whoever compares them. None is equal unless it is spelled the same."""

from __future__ import annotations

import random


def matrix(rows: list[list[str]]) -> str:
    return "\\begin{pmatrix}" + "\\\\".join("&".join(row) for row in rows) + "\\end{pmatrix}"


TOWERS = [
    "9^{9^{9}}",
    "9^{9^{9^{9}}}",
    "2^{2^{100}}",
    "10^{10^{10}}",
    "(9^{99})^{99999999}",
    "2^{-2^{2^{40}}}",
    "7^{10^{12}}+1",
    "(2^{1000000})^{1000000}",
    r"\left(\frac{3}{7}\right)^{10^{9}}",
    "1.5^{10^{11}}",
    "9**9**9**9",
    "9⁹⁹⁹⁹⁹⁹⁹⁹⁹⁹",
    r"\sqrt{2}^{10^{10}}",
    "(1+x)^{9^{9}}",
    "(a+b+c+d)^{99999}",
    "(x+y)^{10^{8}}",
    "0.999999^{10^{15}}",
    "{9^9}^{9^9}",
]
FACTORIALS = [
    "(10^9)!",
    "1000000000!",
    "(10^{9})!+1",
    "((10)!)!",
    "(((3)!)!)!",
    "100000!!",
    "(2^{40})!",
    r"\frac{(10^9)!}{(10^9-1)!}",
    r"\binom{10^{9}}{5\cdot10^{8}}",
    r"\Gamma(10^{10})",
    "(9^{9})!^{9}",
    "999999!",
]
NESTED = (
    ["\\sqrt{2+" * depth + "2" + "}" * depth for depth in (10, 30, 60, 200, 10**5)]
    + ["(" * depth + "x" + ")" * depth for depth in (30, 100, 900, 10**5)]
    + ["\\frac{1}{1+" * depth + "x" + "}" * depth for depth in (15, 38, 100, 10**4)]
    + ["\\sin(" * depth + "x" + ")" * depth for depth in (20, 38, 300)]
    + [
        "{" * 950 + "}" * 950,
        "\\frac{" * 300,
        "|" * 1500,
        "(" * 1999,
        "[[" * 400 + "1" + "]]" * 400,
        "-" * 1500 + "1",
        "2^" * 600 + "2",
        "x_{" * 300 + "1" + "}" * 300,
        "!" * 1000,
        "5" + "!" * 30,
    ]
)
DIGITS = [
    "9" * 1999,
    "9" * 10**6,
    "1" * 1000 + "." + "7" * 900,
    "1/" + "3" * 1900,
    "\\frac{" + "8" * 900 + "}{" + "9" * 900 + "}",
    "1e999999999",
    "10^{999999999}",
    "\\sqrt{" + "7" * 1500 + "}",
    "\\log(" + "3" * 1500 + ")",
    "7" * 300 + "^" + "{9999}",
    "\\sqrt{" + "5" * 400 + "}+\\sqrt{" + "7" * 400 + "}",
]
PRODUCTS = [
    "".join(f"(x+{n})" for n in range(1, 200)),
    "".join(f"(x_{{{n}}}+y_{{{n}}})" for n in range(60)),
    "".join(f"(a+b+c+{n})" for n in range(90)),
    "+".join(f"\\frac{{1}}{{x+{n}}}" for n in range(90)),
    "+".join(f"\\sqrt{{{n}}}" for n in range(2, 160)),
    r"\cdot".join(f"\\sqrt{{{n}+\\sqrt{{{n + 1}}}}}" for n in range(2, 60)),
    r"\prod_{k=1}^{100000000} (k+x)",
    r"\sum_{k=1}^{10^{9}} \frac{1}{k^2}",
    r"\sum_{k=1}^{100000} \sin(k x)",
    r"\int_0^1 \sin(\cos(\tan(e^{x^{x}}))) dx",
    r"\int e^{e^{x^2}}\sin(x^5) dx",
    r"\lim_{x\to0} \sin(x)^{\sin(x)^{\sin x}}",
    "+".join(f"\\sin({n}x)\\cos({n}y)" for n in range(1, 100)),
    ",".join(str(n) for n in range(500)),
    ",".join(f"x+{n}y" for n in range(250)),
    "=".join(f"x+{n}" for n in range(300)),
    "\\pm1" * 400,
    r"\{" + ",".join(f"\\sqrt{{{n}}}" for n in range(200)) + r"\}",
    matrix([[f"x^{{{i * j}}}" for j in range(12)] for i in range(12)]),
    "\\det" + matrix([[f"a_{{{i}{j}}}" for j in range(9)] for i in range(9)]),
    "x^{1000}-1<0",
    "\\{x \\mid x^{50}+x^{49}+3>0\\}",
    "x^7+x^5+3x^3+11=0",
    "|||x-1|-2|-3|<\\sin x",
]
POOLS = {"towers": TOWERS, "factorials": FACTORIALS, "nested": NESTED, "digits": DIGITS, "products": PRODUCTS}
MONSTERS = [text for pool in POOLS.values() for text in pool]


def monster_pairs(seed: int = 0) -> list[tuple[str, str]]:
    """Each monster with a plain answer, and with a variation of itself or with another monster by turns."""
    draw = random.Random(seed)
    found = []
    for n, text in enumerate(MONSTERS):
        other = draw.choice([m for m in MONSTERS if m != text])
        found += [("7", text), (text, other if n % 2 else text + "+1")]
    return found
