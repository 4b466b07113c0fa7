"""What equations and inequalities say: assigned values, an interval, a set.

All functions take text that `normal.clean` has cleaned.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from s1.grading.normal import plain, squeeze
from s1.grading.structure import RELATION, Sequence, has_name, split_top

_OR = re.compile(r"\x02?\s*(?<![a-zA-Z\\])or(?![a-zA-Z])\s*\x03?|\\(?:lor|vee)(?![a-zA-Z])")
_AND = re.compile(r"\x02\s*(?:and|or)\s*\x03|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")
_SIGN = re.compile(r"\\leq(?![a-zA-Z])|\\geq(?![a-zA-Z])|<|>")
_VARIABLE = re.compile(r"\\?[a-zA-Z](?:_\{?\w\}?)?(?:\([a-zA-Z]\))?|\\[a-z]+")
_BUILDER = re.compile(r"\\\{\s*[a-zA-Z]\s*(?:\\in[^|:]*?)?(?:\\mid|\||:)\s*(.*)\\\}", re.S)
_FLIPPED = {"<": ">", ">": "<", "\\leq": "\\geq", "\\geq": "\\leq"}


class Assigned(NamedTuple):
    """Names and the tuples of values they are given: p=5, q=2; p=7, q=2 is (p, q) with two tuples."""

    names: tuple[str, ...]
    values: list[tuple[str, ...]]

    def ordered(self) -> Assigned:
        """The same with its names in alphabetical order."""
        order = sorted(range(len(self.names)), key=lambda i: self.names[i])
        rows = [tuple(row[i] for i in order) for row in [self.names, *self.values]]
        return Assigned(rows[0], rows[1:])

    def as_text(self) -> str:
        return ",".join("(" + ",".join(row) + ")" for row in self.values)


def assigned(text: str) -> Assigned | None:
    """The values that a list of equations gives to two names or more. None for anything else.

    x_1=2, x_2=7 names two solutions of one unknown and stays a list.
    """
    if "=" not in text or RELATION.search(text):
        return None
    if (tuples := _assigned_tuples(text)) is not None:
        return tuples
    pairs = [part for part in split_top(_AND.sub(",", text), (",", ";")) if part.strip()]
    sides = [[side.strip() for side in split_top(pair, ("=",))] for pair in pairs]
    if not all(len(s) == 2 and s[1] and has_name(s[0]) for s in sides):
        return None
    names, values = [squeeze(s[0]) for s in sides], [s[1] for s in sides]
    width = len(set(names))
    if len({re.sub(r"_.*", "", name) for name in names}) < 2:
        return None
    starts = range(0, len(names), width)
    if any(names[i : i + width] != names[:width] for i in starts):
        return None
    return Assigned(tuple(names[:width]), [tuple(values[i : i + width]) for i in starts])


def _assigned_tuples(text: str) -> Assigned | None:
    """(x,y)=(3,4), or the same with several tuples on the right."""
    sides = split_top(text, ("=",))
    if len(sides) != 2:
        return None
    names = Sequence.of(sides[0])
    if names.opener != "(" or len(names.items) < 2 or not all(map(has_name, names.items)):
        return None
    right = Sequence.of(sides[1])
    tuples = [right] if right.opener == "(" else [Sequence.of(item) for item in right.items]
    if not all(t.opener == "(" and len(t.items) == len(names.items) for t in tuples):
        return None
    return Assigned(tuple(map(squeeze, names.items)), [tuple(t.items) for t in tuples])


def renamed(left: str, right: str) -> str:
    """`right` with its argument named as in `left`: "f(x)=x^2" of f(x)=... and f(t)=t^2. Else unchanged."""
    heads = [re.match(r"\s*[a-zA-Z]\s*\(\s*([a-zA-Z])\s*\)\s*=", text) for text in (left, right)]
    if heads[0] is None or heads[1] is None:
        return right
    new, old = heads[0][1], heads[1][1]
    if old == new or new in re.sub(r"\\[a-zA-Z]+", "", right[heads[1].end() :]):
        return right
    start = heads[1].start(1)
    rest = re.sub(rf"\\[a-zA-Z]+|{old}", lambda m: new if m[0] == old else m[0], right[start:])
    return right[:start] + rest


def region(text: str) -> tuple[str, str] | None:
    """Variable and interval of x<3, 1<x\\leq 5, {x | x>2}, or several joined by "or". None for anything else."""
    if builder := _BUILDER.fullmatch(text.strip()):
        text = builder[1]
    parts = [_interval(part) for part in _OR.split(text)]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len({variable for variable, _ in found}) != 1:
        return None
    return found[0][0], "\\cup ".join(interval for _, interval in found)


def _interval(text: str) -> tuple[str, str] | None:
    signs = _SIGN.findall(text)
    sides = [side.strip() for side in _SIGN.split(plain(text))]
    if len(signs) not in (1, 2) or not all(sides) or re.search(r"[=,;]|\\(?:neq|in)(?![a-zA-Z])", text):
        return None
    if len(signs) == 1:
        if not _VARIABLE.fullmatch(squeeze(sides[0])):
            sides, signs = sides[::-1], [_FLIPPED[signs[0]]]
        far, sign = ("-\\infty", "<") if signs[0] in ("<", "\\leq") else ("\\infty", ">")
        sides, signs = [far, *sides], [sign, *signs]
    if signs[0] in (">", "\\geq"):
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    low, variable, high = sides[0], squeeze(sides[1]), sides[2]
    if not set(signs) <= {"<", "\\leq"} or not _VARIABLE.fullmatch(variable):
        return None
    if variable in ("\\pi", "\\infty", "e", squeeze(low), squeeze(high)):
        return None
    opener, closer = "[" if signs[0] == "\\leq" else "(", "]" if signs[1] == "\\leq" else ")"
    return variable, f"{opener}{low},{high}{closer}"
