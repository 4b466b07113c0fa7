"""Ten families of questions with exact answers: five calculations, five searches.

A calculation is a chain of steps, each of which is easy and several of which are hard to do at once. A
search tries candidates in order; each is worked out in full and labelled with a counter, so that the model
can see how far it has come. Every number is an integer that the tokenizer has a token for (0 to 159).
`difficulty` runs from 1 to 10.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Split = Literal["train", "dev", "test"]


@dataclass(frozen=True)
class Calculation:
    """A chain of steps from `start`. `line(i, state, slip)` returns the text of step i and the next state.

    `slip` is an error that is added to the result of the step.
    """

    family: str
    difficulty: int
    question: str
    start: Any
    given: str
    """How the careful pass begins: the start, copied from the question, or "" if there is none."""
    steps: int
    line: Callable[[int, Any, int], tuple[str, Any]]
    show: Callable[[Any], str]
    """The state as an answer."""
    drafts: bool = True
    """Whether a draft shows intermediate states; otherwise it states the result at once."""

    @property
    def answer(self) -> str:
        state = self.start
        for i in range(self.steps):
            _, state = self.line(i, state, 0)
        return self.show(state)


@dataclass(frozen=True)
class Search:
    """Candidates to try. `line(i, slip)` returns the text of candidate i and whether it looks like a hit.

    `slip` is an error that is added to the result of the candidate.
    """

    family: str
    difficulty: int
    question: str
    answer: str
    space: int
    """Number of candidates."""
    line: Callable[[int, int], tuple[str, bool]]
    show: Callable[[int], str]


Problem = Calculation | Search


def split_of(question: str) -> Split:
    """The split of a question, by a hash of its text: 1/12 test, 1/12 dev, the rest train."""
    bucket = hashlib.sha256(" ".join(question.split()).encode()).digest()[0] % 12
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


def chain(rng: random.Random, d: int) -> Problem:
    p = rng.choice((7, 11, 13, 17))
    start, ops = rng.randrange(p), [(rng.choice("+*"), rng.randint(2, 9)) for _ in range(1 + d)]

    def line(i: int, v: int, slip: int) -> tuple[str, int]:
        op, c = ops[i]
        raw = v + c if op == "+" else v * c
        result = (raw + slip) % p
        return f"{i + 1} : {v} {op} {c} = {raw} = {result}", result

    text = " ; ".join(f"{i + 1} : {op} {c}" for i, (op, c) in enumerate(ops))
    question = f"start {start} mod {p} ; {text}"
    return Calculation("chain", d, question, start, f"start {start}", len(ops), line, str)


def clock(rng: random.Random, d: int) -> Problem:
    start = (rng.randrange(24), 5 * rng.randrange(12))
    spans = [(rng.randrange(6), 5 * rng.randrange(1, 12)) for _ in range(1 + (d + 1) // 2)]

    def line(i: int, v: tuple[int, int], slip: int) -> tuple[str, tuple[int, int]]:
        (h, m), (dh, dm) = v, spans[i]
        hours, minutes = h + dh, m + dm
        after = ((hours + minutes // 60) % 24, (minutes + 5 * slip) % 60)
        return f"{i + 1} : {h} h {m} + {dh} h {dm} = {hours} h {minutes} = {after[0]} h {after[1]}", after

    def show(v: tuple[int, int]) -> str:
        return f"{v[0]} h {v[1]}"

    text = " ; ".join(f"{i + 1} : + {h} h {m}" for i, (h, m) in enumerate(spans))
    given = f"clock {show(start)}"
    return Calculation("clock", d, f"{given} ; {text}", start, given, len(spans), line, show, drafts=False)


def poly(rng: random.Random, d: int) -> Problem:
    p = rng.choice((7, 11, 13))
    x, coefficients = rng.randrange(2, p), [rng.randrange(p) for _ in range(3 + d // 2)]

    def line(i: int, v: int, slip: int) -> tuple[str, int]:
        c = coefficients[i + 1]
        result = (v * x + c + slip) % p
        return f"{i + 1} : {v} * {x} = {v * x} + {c} = {v * x + c} = {result}", result

    text = " ; ".join(f"{i} : {c}" for i, c in enumerate(coefficients))
    question = f"poly at {x} mod {p} ; {text}"
    first = coefficients[0]
    return Calculation("poly", d, question, first, f"0 : {first}", len(coefficients) - 1, line, str)


def route(rng: random.Random, d: int) -> Problem:
    names = rng.sample("abcdefghijkl", min(4 + d, 12))
    targets = dict(zip(names, [*names[1:], names[0]], strict=True))  # a ring: every step leads somewhere new
    steps = rng.randint(1 + len(names) // 2, len(names) - 1)
    start = rng.choice(names)

    def line(i: int, v: str, slip: int) -> tuple[str, str]:
        to = names[(names.index(targets[v]) + slip) % len(names)]
        return f"{i + 1} : {v} > {to}", to

    text = " , ".join(f"{a} > {targets[a]}" for a in sorted(names))
    question = f"map {text} ; start {start} ; steps {steps}"
    return Calculation("route", d, question, start, f"start {start}", steps, line, str)


def tally(rng: random.Random, d: int) -> Problem:
    limit, numbers = rng.randint(20, 60), [rng.randint(1, 80) for _ in range(3 + d)]

    def line(i: int, v: int, slip: int) -> tuple[str, int]:
        over = (numbers[i] > limit) != bool(slip)
        after = v + over
        return f"{i + 1} : {numbers[i]} {'yes' if over else 'no'} {after}", after

    text = " ; ".join(f"{i + 1} : {n}" for i, n in enumerate(numbers))
    question = f"count over {limit} in {text}"
    return Calculation("tally", d, question, 0, "", len(numbers), line, str, drafts=False)


PRIMES = (7, 11, 11, 13, 17, 19, 23, 23, 29, 31)


def congruence(rng: random.Random, d: int) -> Problem:
    p = PRIMES[d - 1]
    b = rng.randint(0, 19)
    a = rng.randint(2, min(p - 1, (159 - b) // (p - 1)))
    x = rng.randrange(p)
    c = (a * x + b) % p

    def line(i: int, slip: int) -> tuple[str, bool]:
        total = a * i + b
        return _tried(f"x {i} : {a * i} + {b} = {total}", (total + slip) % p, c)

    return Search("congruence", d, f"solve {a} x + {b} = {c} mod {p}", str(x), p, line, str)


def power(rng: random.Random, d: int) -> Problem:
    p = PRIMES[d - 1]
    while True:
        g = rng.randint(2, min(p - 1, 159 // (p - 1)))
        if len({pow(g, e, p) for e in range(p - 1)}) == p - 1:
            break
    s, k = rng.randint(1, p - 1), rng.randint(1, p - 1)
    t = s * pow(g, k, p) % p

    def line(i: int, slip: int) -> tuple[str, bool]:
        before = s * pow(g, i, p) % p
        return _tried(f"k {i + 1} : {before} * {g} = {before * g}", (before * g + slip) % p, t)

    question = f"find k : {s} * {g} ^ k = {t} mod {p}"
    return Search("power", d, question, str(k), p - 1, line, lambda i: str(i + 1))


def square(rng: random.Random, d: int) -> Problem:
    p = rng.choice((17, 19, 23, 29, 31, 37, 41, 43, 47))
    b, x = rng.randint(0, 15), rng.randint(0, min(2 + d, 12))
    c = (x * x + b) % p
    x = next(i for i in range(x + 1) if (i * i + b) % p == c)

    def line(i: int, slip: int) -> tuple[str, bool]:
        total = i * i + b
        return _tried(f"x {i} : {i * i} + {b} = {total}", (total + slip) % p, c)

    question = f"smallest x to {min(2 + d, 12)} with x x + {b} = {c} mod {p}"
    return Search("square", d, question, str(x), min(2 + d, 12) + 1, line, str)


def remainders(rng: random.Random, d: int) -> Problem:
    second = (4, 5, 6, 7, 8, 9, 10, 11, 12, 13)[d - 1]
    first = rng.choice([m for m in range(5, 159 // second + 1) if math.gcd(m, second) == 1])
    r, n = rng.randrange(first), rng.randrange(second)
    s = (first * n + r) % second

    def line(i: int, slip: int) -> tuple[str, bool]:
        total = first * i + r
        return _tried(f"n {i} : {first * i} + {r} = {total}", (total + slip) % second, s)

    question = f"find x = {r} mod {first} and x = {s} mod {second}"
    return Search("remainders", d, question, str(first * n + r), second, line, lambda i: str(first * i + r))


def pick(rng: random.Random, d: int) -> Problem:
    names = "abcdefghi"[: 4 + d // 2]
    pairs = list(itertools.combinations(range(len(names)), 2))
    while True:
        numbers = rng.sample(range(1, 75), len(names))
        chosen = rng.choice(pairs)
        total = numbers[chosen[0]] + numbers[chosen[1]]
        if sum(numbers[i] + numbers[j] == total for i, j in pairs) == 1:
            break

    def line(i: int, slip: int) -> tuple[str, bool]:
        a, b = pairs[i]
        result = min(max(numbers[a] + numbers[b] + slip, 0), 159)
        return _tried(f"{show(i)} : {numbers[a]} + {numbers[b]}", result, total)

    def show(i: int) -> str:
        return f"{names[pairs[i][0]]} {names[pairs[i][1]]}"

    text = " , ".join(f"{a} {n}" for a, n in zip(names, numbers, strict=True))
    question = f"pick two with sum {total} : {text}"
    return Search("pick", d, question, show(pairs.index(chosen)), len(pairs), line, show)


def _tried(working: str, result: int, target: int) -> tuple[str, bool]:
    """The text of a candidate, and whether it is a hit."""
    hit = result == target
    return f"{working} = {result} {'yes' if hit else 'no'}", hit


FAMILIES: dict[str, Callable[[random.Random, int], Problem]] = {
    f.__name__: f for f in (chain, clock, poly, route, tally, congruence, power, square, remainders, pick)
}
SEARCHES = ("congruence", "power", "square", "remainders", "pick")


def make_problem(rng: random.Random, family: str, difficulty: int, split: Split) -> Problem:
    """A random problem of one family, whose question is in `split`."""
    while True:
        problem = FAMILIES[family](rng, difficulty)
        if split_of(problem.question) == split:
            return problem


def make_problems(split: Split, n: int, seed: int) -> list[Problem]:
    """`n` distinct problems with families and difficulties in equal shares, the same for the same seed.

    Every ten in a row cover all families, and a shorter list is the beginning of a longer one.
    """
    rng = random.Random(f"{split}/{seed}")
    names = list(FAMILIES)
    problems: dict[str, Problem] = {}
    tries = 0
    while len(problems) < n:
        i = len(problems)
        family, difficulty = names[i % len(names)], (i // len(names) + 3 * i) % 10 + 1
        problem = make_problem(rng, family, difficulty, split)
        tries += 1
        if tries > 200:  # too few questions at this difficulty: take the next one up
            problem = make_problem(rng, family, min(10, difficulty + 1), split)
        if problem.question not in problems:
            problems[problem.question], tries = problem, 0
    return list(problems.values())
