"""Equality of two LaTeX expressions by math-verify and sympy: the program that `worker.py` runs.

It imports nothing from s1, reads one JSON job per line and writes one JSON line for each.
"""

from __future__ import annotations

import cmath
import contextlib
import json
import logging
import os
import resource
import signal
import sys
import time
import zlib
from functools import lru_cache
from typing import Any

MEMORY_BYTES = 1 << 30
"""Limit on this process's address space, where the system supports one."""
REMEMBERED = 1024
"""Expressions whose parsed form and value are kept: in a vote, each is compared with all others."""
UNEQUAL = 1e-5
"""Two values that differ by a larger share of themselves are not equal, however they were rounded."""


def main() -> None:
    """Answers jobs from stdin until it closes, or until the memory was full once."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # libraries that print must not write into the replies

    def send(**reply: object) -> None:
        replies.write(json.dumps({**reply, "used": time.process_time()}) + "\n")
        replies.flush()

    import math_verify  # noqa: F401 - loaded before the limits

    logging.disable(logging.CRITICAL)
    with contextlib.suppress(ValueError, OSError):  # it is lower already, or the system has none
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    send(ready=True)
    for line in sys.stdin:
        job = json.loads(line)
        began = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, job["seconds"])  # the system ends this process after that
        equal: bool | None = False
        try:
            equal = symbolic_equal(job["gold"], job["answer"])
        except MemoryError:
            equal = None
        except Exception:  # the parser may raise anything: not equal
            pass
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(equal=equal, seconds=time.process_time() - began)
        if equal is None:
            return


def symbolic_equal(gold: str, answer: str) -> bool:
    """Whether two LaTeX expressions are equal. It may never return: call it under a time limit only."""
    from math_verify import verify
    from sympy import Expr
    from sympy.core.relational import Relational

    left, right = _parsed(gold), _parsed(answer)
    if not left or not right or _differ(_value(gold), _value(answer)):
        return False
    if verify(left, right, timeout_seconds=None, allow_set_relation_comp=True):
        return _close(left[0], right[0])
    left, right = left[0], right[0]
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _equal_with_imaginary_unit(left, right) or _equal_where_positive(left, right)
    return isinstance(left, Relational) and isinstance(right, Relational) and _same_region(left, right)


@lru_cache(REMEMBERED)
def _parsed(text: str) -> Any:
    from math_verify import LatexExtractionConfig, parse

    return parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)


@lru_cache(REMEMBERED)
def _value(text: str) -> Any:
    """The number that an expression gives when each letter is a certain positive number; None where unsure.

    Equal expressions have the same value, so most unequal ones need no algebra. Left out are forms for which
    another rule may find equality (single letters, the letter i, percentages) and those computed with approximation.
    """
    from sympy import Expr, Integral, Limit, Product, Rational, Sum, Symbol, UnevaluatedExpr

    found = _parsed(text)[0]
    if not isinstance(found, Expr) or isinstance(found, Symbol) or found.is_Matrix:
        return None
    names = {letter: letter.name for letter in found.free_symbols}
    if "i" in names.values() or found.has(Integral, Limit, Product, Sum, UnevaluatedExpr):
        return None
    points = {
        letter: Rational(zlib.crc32(name.encode()) % 9967 + 1009, 9973) for letter, name in names.items()
    }
    with contextlib.suppress(ArithmeticError, AttributeError, RuntimeError, TypeError, ValueError):
        value = complex(found.subs(points).evalf(15, strict=True))
        return value if cmath.isfinite(value) else None
    return None


def _differ(gold: complex | None, answer: complex | None) -> bool:
    return (
        gold is not None and answer is not None and abs(gold - answer) > UNEQUAL * max(abs(gold), abs(answer))
    )


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
