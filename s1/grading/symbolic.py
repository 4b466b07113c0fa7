"""Equality of two LaTeX expressions by math-verify and sympy: the program that `worker.py` runs.

It imports nothing from s1, reads one JSON job per line and writes one JSON line for each.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import signal
import sys
import time
import zlib
from typing import Any

MEMORY_BYTES = 4 << 30
"""Limit on this process's address space, where the system supports one."""
SMALL = 200
"""Operations in an expression that is worth a value."""


def main() -> None:
    """Answers jobs from stdin until it closes."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries that print must not write into the replies

    def send(reply: dict[str, object]) -> None:
        replies.write(json.dumps(reply) + "\n")
        replies.flush()

    try:
        import math_verify  # noqa: F401
    except ImportError:
        send({"missing": "math-verify"})
        return
    logging.disable(logging.CRITICAL)
    _limit_memory()
    send({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        began = time.process_time()
        _limit_seconds(job["seconds"])
        try:
            equal = symbolic_equal(job["gold"], job["answer"])
        except (Exception, RecursionError, MemoryError):  # the parser may raise anything: not equal
            equal = False
        _limit_seconds(0)
        send({"equal": equal, "seconds": time.process_time() - began})


def _limit_seconds(seconds: float) -> None:
    """Lets the system end this process after `seconds` of processor time; 0 removes the limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not a POSIX system, or already lower
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def symbolic_equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX expressions are equal. It may never return: call it under a time limit only."""
    from math_verify import verify
    from sympy import Expr
    from sympy.core.relational import Relational

    parsed = [_parsed(gold), _parsed(answer)]
    if not all(parsed):
        return False
    left, right = parsed[0][0], parsed[1][0]
    if isinstance(left, Expr) and isinstance(right, Expr) and _differ_at_a_point(left, right):
        return False
    if verify(*parsed, timeout_seconds=None, allow_set_relation_comp=True):
        return _close(left, right)
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _equal_with_imaginary_unit(left, right) or _equal_where_positive(left, right)
    return isinstance(left, Relational) and isinstance(right, Relational) and _same_region(left, right)


@functools.lru_cache(maxsize=512)
def _parsed(text: str) -> Any:
    """What math-verify reads; kept, because a vote compares each answer with many others."""
    from math_verify import LatexExtractionConfig, parse

    config = [LatexExtractionConfig()]
    return parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)


def _differ_at_a_point(gold: Any, answer: Any) -> bool:
    """Whether two small expressions have clearly different values where each letter is a fixed positive number.

    Such expressions are never equal, so the algebra can be spared. A letter i may be the imaginary unit, a longer
    name a word, and a factor of 100 a percent sign: these are left to the algebra.
    """
    values = []
    for side in (gold, answer):
        names = {letter.name for letter in side.free_symbols}
        if "i" in names or any(len(name.partition("_")[0]) > 1 for name in names) or side.count_ops() > SMALL:
            return False
        at = {letter: 1 + zlib.crc32(letter.name.encode()) / 2**33 for letter in side.free_symbols}
        try:
            values.append(complex(side.subs(at).evalf(15)))
        except (TypeError, ValueError, ArithmeticError, AttributeError):
            return False
    one, other = sorted(map(abs, values))
    apart = abs(values[0] - values[1])
    return bool(math.isfinite(other) and apart > 1e-3 * other and not (one and 99 < other / one < 101))


def _equal_with_imaginary_unit(gold: Any, answer: Any) -> bool:
    """Equality when the letter i, which the parser takes for a variable, is the imaginary unit."""
    from sympy import I, simplify

    letters = {s: I for s in gold.free_symbols | answer.free_symbols if s.name == "i"}
    if not letters:
        return False
    difference = (gold - answer).subs(letters).doit()
    if not difference.free_symbols:
        return bool(abs(difference.evalf(40)) < 1e-30)
    return bool(simplify(difference) == 0)


def _equal_where_positive(gold: Any, answer: Any) -> bool:
    """Equality for positive letters where roots or logarithms occur: 1/sqrt(n) and sqrt(1/n). Not with | |."""
    from sympy import Abs, Pow, Symbol, log, simplify

    letters = gold.free_symbols
    if letters != answer.free_symbols or not letters or gold.has(Abs) or answer.has(Abs):
        return False
    roots = any(not power.exp.is_integer for side in (gold, answer) for power in side.atoms(Pow))
    if not roots and not gold.has(log):
        return False
    positive = {letter: Symbol(letter.name, positive=True) for letter in letters}
    return bool(simplify((gold - answer).subs(positive)) == 0)


def _same_region(gold: Any, answer: Any) -> bool:
    """Whether two inequalities in one letter hold for the same numbers: 2x > 6 and x > 3."""
    if len(gold.free_symbols) != 1 or gold.free_symbols != answer.free_symbols:
        return False
    return bool(gold.as_set() == answer.as_set())


def _close(gold: Any, answer: Any) -> bool:
    """False for numbers that only rounding to six places made equal, such as 0 and 10^-8."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    difference = abs((gold - answer).evalf(30))
    size = max(abs(gold.evalf(30)), abs(answer.evalf(30)))
    return not (difference.is_number and size.is_finite) or bool(difference <= size * 1e-6)


if __name__ == "__main__":
    main()
