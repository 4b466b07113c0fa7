"""How large the numbers and brackets of an expression are, found from its text before anything is computed."""

from __future__ import annotations

import math
import re

LARGEST = 20_000
"""Digits of the largest number that the algebra is asked to compute."""
NESTED = 40
"""Nested brackets, or powers in all, beyond which an answer is not given to the algebra."""
_TOKEN = re.compile(r"\d+(?:\.\d+)?|\\[a-zA-Z]+|\\.|.", re.S)
_GROWING = {"\\binom": 1.0, "\\Gamma": 10.0}


def is_too_large(text: str) -> bool:
    """Whether the algebra could not finish: more than LARGEST digits, or nested more than NESTED times.

    >>> is_too_large("2^{2024}+20!"), is_too_large("9^{9^{9}}"), is_too_large("(10^9)!")
    (False, True, True)
    """
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    if max(deepest, text.count("^")) > NESTED:
        return True
    return _Reader(_TOKEN.findall(text.replace(" ", ""))).digits() > LARGEST


class _Reader:
    """Reads tokens from left to right. Letters count as 1: their powers stay symbols."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def digits(self) -> float:
        """An upper bound on the digits of what stands before the next closing bracket, or the end.

        The digits of all factors and summands are added up: no sum or product has more.
        """
        total = 0.0
        while self.at < len(self.tokens) and self.tokens[self.at] not in (")", "]", "}", "\\}"):
            total += self._factor() + (0.31 if total else 0.0)  # a sum of two may be twice as large
        self.at += 1
        return total

    def _factor(self) -> float:
        """A number, group or letter with the powers and factorials after it."""
        size = self._atom()
        while self.at < len(self.tokens) and self.tokens[self.at] in ("^", "!"):
            self.at += 1
            exponent = size if self.tokens[self.at - 1] == "!" else self._atom()
            size = size * 10.0**exponent if exponent < 300 else math.inf if size else 0.0
        return size

    def _atom(self) -> float:
        if self.at >= len(self.tokens):
            return 0.0
        token = self.tokens[self.at]
        self.at += 1
        if token in ("(", "[", "{", "\\{"):
            return self.digits()
        if token in _GROWING:
            inner = self._atom()
            return _GROWING[token] * (10.0**inner if inner < 300 else math.inf)
        if not token[0].isdecimal():
            return 0.0
        whole, _, places = token.partition(".")
        return max(0.0, math.log10(int(whole[:4000]) or 1)) + len(places)
