"""Whether two answers say the same.

Structure first, algebra last: lists, sets, tuples, intervals and matrices are taken apart here and
compared part by part; plain numbers and words are compared exactly. Only what remains, a pair of
expressions or relations, goes to the worker process (math-verify), under limits of size, time and memory.

Rules that could have been chosen differently:
- a percent sign may be ignored or mean a hundredth: 50% equals 50 and 0.5, while 50 and 0.5 differ;
- a unit may be left out; two known units must agree;
- brackets count: (0,1) and [0,1] differ, (1,2) and (2,1) differ; a list without brackets has no order;
- 1,000 is a number, 1, 000 is a list; 1,22 equals 1.22 (decimal comma with two places or more);
- an answer may leave out a subscript base (4210_5 and 4210), but not give another one;
- a decimal equals what it rounds to only from six places on (0.333333 and 1/3; not 0.33).
"""

from __future__ import annotations

import functools
import re
import time
from fractions import Fraction
from typing import NamedTuple

from s1.errors import BadConfig, require
from s1.grading.normal import (
    as_text,
    clean,
    join_thousands,
    number,
    plain,
    same_number,
    squeeze,
    without_parentheses,
)
from s1.grading.relations import assigned, region, renamed
from s1.grading.size import is_too_large
from s1.grading.structure import (
    OPENERS,
    RELATION,
    Sequence,
    both_signs,
    exact_side,
    has_name,
    is_words,
    joined_sets,
    lettered,
    matrix_rows,
    restated,
    same_name,
    set_of_membership,
    split_top,
    to_latex,
    vector,
    with_both_signs,
    words_of,
)
from s1.grading.units import split_unit
from s1.grading.worker import WORKER

KINDS = ("math", "integer", "choice", "text", "exact")

LONGEST = 2000
"""Characters beyond which answers are compared by spelling only."""
DEEPEST = 12
"""Levels to which an answer is taken apart; below them nothing is equal."""
SECONDS = 2.0
"""Processor seconds for one comparison. Of the 1,100 cases of the tests, none needs more than 0.4."""


class Verdict(NamedTuple):
    """Equal or not, and the rule that decided."""

    equal: bool
    how: str


def equivalent(gold: object, answer: object, kind: str = "math", timeout: float = SECONDS) -> bool:
    """True when `answer` says the same as `gold`. An empty answer, or None, equals nothing.

    Both are text; numbers are taken as written, tuples, lists and sets as such. `kind` is one of KINDS.
    `timeout` bounds the comparison in processor seconds, so that a busy machine gives the same grades as an
    idle one; what takes longer, or more than a gigabyte, is not equal. Not symmetric: the answer may leave out a
    unit or a base that `gold` has. Raises BadConfig for an unknown kind, BadInput for any other type of answer,
    and MissingExtra where algebra is needed and math-verify is not installed; never for what a text holds.

    >>> equivalent("\\\\frac12", "0.5"), equivalent("(1,2)", "(2,1)"), equivalent("C", "(c)", kind="choice")
    (True, False, True)
    >>> equivalent(7, "7.0"), equivalent("7", None)
    (True, False)
    """
    return compare(gold, answer, kind, timeout).equal


def compare(gold: object, answer: object, kind: str = "math", timeout: float = SECONDS) -> Verdict:
    """As `equivalent`, with the rule that decided: "number", "symbolic", "timeout" and so on."""
    return _compare(as_text(gold), as_text(answer), kind, timeout)


@functools.lru_cache(maxsize=65536)
def _compare(gold: str, answer: str, kind: str, timeout: float) -> Verdict:
    check_kind(kind)
    if not gold.strip() or not answer.strip():
        return Verdict(False, "empty")
    if kind == "exact":
        return Verdict(gold.split() == answer.split(), "exact")
    if len(gold) > LONGEST or len(answer) > LONGEST:
        return Verdict(gold.split() == answer.split(), "too long")
    if kind == "choice":
        return Verdict(letters(gold) == letters(answer) != "", "letter")
    if kind == "text":
        return Verdict(words_of(gold) == words_of(answer) != "", "text")
    comparison = _Comparison(time.thread_time() + timeout)
    try:
        left, right = clean(gold), clean(answer)
        if kind == "integer" and (whole := number(left)) is not None and (other := number(right)) is not None:
            return Verdict(whole.value == other.value, "integer")
        equal = comparison.same(left, right)
    except RecursionError:
        return Verdict(gold.split() == answer.split(), "too deep")
    return Verdict(equal, "timeout" if comparison.timed_out and not equal else comparison.how)


def check_kind(kind: str) -> None:
    """Raises BadConfig unless `kind` is one of KINDS."""
    if kind not in KINDS:
        raise BadConfig(f"Unknown kind of answer {kind!r}.", f"Use one of: {', '.join(KINDS)}.")


def require_for(kind: str) -> None:
    """Raises MissingExtra where answers of this kind may need algebra and math-verify is not installed."""
    if kind in ("math", "integer"):
        require("grading")


def letters(text: str) -> str:
    """The option letters of an answer in order: "B" of `\\text{(B)}`, "AC" of "A and C"; "" if none."""
    if len(text) > LONGEST:
        return ""
    bare = plain(clean(text))
    if match := re.match(r"^\(?\s*([A-Za-z])\s*[).:](?:\s|$)", bare):
        return match[1].upper()
    bare = re.sub(r"\b(?:and|or|options?|choices?|answer|the)\b|[^A-Za-z0-9]", " ", bare, flags=re.I)
    parts = bare.split()
    if len(parts) == 1 and re.fullmatch(r"[A-J]{2,6}", parts[0]):
        parts = list(parts[0])
    return (
        "".join(sorted({p.upper() for p in parts}))
        if all(re.fullmatch(r"[A-Za-z]", p) for p in parts)
        else ""
    )


_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2}))?\s*([ap]\.?m\.?)?", re.I)
_MODULUS = re.compile(r"\s*\(?\s*\\(?:pmod|bmod|mod)(?![a-zA-Z])\s*\{?\s*(\w+)\s*\}?\s*\)?\s*$")
_CONDITION = re.compile(r"(?<![a-zA-Z\\])(?:if|otherwise|unless)(?![a-zA-Z])")
_PERCENT = re.compile(r"\s*(?:%|\x02?\s*\b(?:percent(?:age)?|pct)\b\s*\x03?)\s*$")
_BASED = re.compile(r"([0-9A-F]+)(?:_(\w+|\{\w+\}))?")


class _Comparison:
    """One comparison under one deadline, in processor time. `how` is the last rule that decided."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.depth = 0
        self.how = "spelling"
        self.timed_out = False

    def same(self, gold: str, answer: str) -> bool:
        """Compares cleaned strings, taking them apart until numbers, words or expressions remain."""
        if not gold.strip() or not answer.strip() or self.depth > DEEPEST:
            return False
        if time.thread_time() > self.deadline:
            self.timed_out = True
            return False
        self.depth += 1
        try:
            rules = (
                self._spelling, self._restated, self._thousands, self._options, self._matrices, self._assigned,
                self._regions, self._lists, self._equations, self._unions, self._leaves,
            )  # fmt: skip
            return next(decided for rule in rules if (decided := rule(gold, answer)) is not None)
        finally:
            self.depth -= 1

    def _spelling(self, gold: str, answer: str) -> bool | None:
        if squeeze(gold) == squeeze(answer):
            self.how = "spelling"
            return True
        if (left := number(gold)) is not None and (right := number(answer)) is not None:
            self.how = "number"
            return same_number(left, right)
        # Values by cases are compared by their spelling alone.
        return False if _CONDITION.search(gold) or _CONDITION.search(answer) else None

    def _restated(self, gold: str, answer: str) -> bool | None:
        for text, other, ordered in ((answer, gold, False), (gold, answer, True)):
            if (parts := restated(text)) is not None:
                pairs = [(part, other) if ordered else (other, part) for part in parts if part]
                return all(self.same(*pair) for pair in pairs)
        forms = re.split(r",?\s*\x02?\s*(?<![a-zA-Z])(?:or(?![a-zA-Z])|i\.e\.,?)\s*\x03?\s*", answer)
        single = not RELATION.search(answer) and not re.search(r"[,;]|\bor\b", gold)
        if single and len(forms) == 2 and all(forms):
            return all(self.same(gold, form) for form in forms) or None
        return None

    def _thousands(self, gold: str, answer: str) -> bool | None:
        joined = join_thousands(gold), join_thousands(answer)
        if joined != (gold, answer) and not any(t.startswith(OPENERS) for t in joined) and self.same(*joined):
            return True
        for comma, point in ((gold, answer), (answer, gold)):
            if re.fullmatch(r"-?\d+,\d{2,}", comma) and re.fullmatch(r"-?\d*\.\d+", point):
                self.how = "number"
                return number(comma.replace(",", ".")) == number(point)
        return None

    def _options(self, gold: str, answer: str) -> bool | None:
        left, right = lettered(gold), lettered(answer)
        if left is None and right is None:
            return None
        self.how = "letter"
        if left is not None and right is not None:
            return left[0] == right[0]
        (letter, content), other = (left, answer) if left is not None else (right or ("", ""), gold)
        return letters(other) == letter or self.same(content, other)

    def _matrices(self, gold: str, answer: str) -> bool | None:
        lefts, rights = matrix_rows(gold), matrix_rows(answer)
        if lefts is None or rights is None:
            columns = vector(gold), vector(answer)
            if (lefts is None) == (rights is None) or columns[0] is None or columns[1] is None:
                return None
            lefts, rights = [columns[0]], [columns[1]]
        self.how = "matrix"
        if [len(row) for row in lefts] != [len(row) for row in rights]:
            return False
        return all(map(self.same, sum(lefts, []), sum(rights, [])))

    def _assigned(self, gold: str, answer: str) -> bool | None:
        left, right = assigned(gold), assigned(answer)
        if left is None and right is None:
            return None
        if left is not None and right is not None:
            left, right = left.ordered(), right.ordered()
            return left.names == right.names and self.same(left.as_text(), right.as_text())
        return self.same(left.as_text() if left else gold, right.as_text() if right else answer)

    def _regions(self, gold: str, answer: str) -> bool | None:
        left, right = region(gold), region(answer)
        if left is not None and right is not None:
            return self.same(left[1], right[1]) if left[0] == right[0] else None
        interval = left or right
        other = set_of_membership(answer if left else gold)
        if interval is None or not re.search(r"[\])]$|\\\}$", squeeze(other)):
            return None
        return self.same(interval[1], other) if left else self.same(other, interval[1])

    def _lists(self, gold: str, answer: str) -> bool | None:
        gold, answer = joined_sets(gold), joined_sets(answer)
        related = bool(RELATION.search(gold + answer))
        lefts, rights = Sequence.of(gold), Sequence.of(answer)
        if len(lefts.items) < 2 and len(rights.items) < 2 and not (lefts.is_set and rights.is_set):
            if lefts.is_set == rights.is_set or related:
                return None
            left, right = (
                s.items[0] if s.is_set and s.items else t for s, t in ((lefts, gold), (rights, answer))
            )
            return self.same(left, right)
        if len(lefts.items) < 2 <= len(rights.items) and len(parts := both_signs(gold)) > 1:
            lefts = Sequence("", "", parts)
        if len(rights.items) < 2 <= len(lefts.items) and len(parts := both_signs(answer)) > 1:
            rights = Sequence("", "", parts)
        if min(len(lefts.items), len(rights.items)) < 2 and not (lefts.is_set or rights.is_set):
            # One is a list, the other an expression: a relation, a union or S = {...} may say the same.
            single = gold if len(lefts.items) < 2 else answer
            named = len(Sequence.of(split_top(single, ("=",))[-1]).items) > 1
            return None if related or "\\cup" in gold + answer or named else False
        if related and bool(lefts.opener) != bool(rights.opener):
            return None
        self.how = "list"
        if lefts.unordered and rights.unordered:
            return self._paired(with_both_signs(lefts), with_both_signs(rights))
        if lefts.brackets != rights.brackets and {lefts.brackets, rights.brackets} != {("", ""), ("(", ")")}:
            return False
        return len(lefts.items) == len(rights.items) and all(map(self.same, lefts.items, rights.items))

    def _equations(self, gold: str, answer: str) -> bool | None:
        gold, answer = exact_side(gold), exact_side(answer)
        answer = renamed(gold, answer)
        lefts, rights = split_top(gold, ("=",)), split_top(answer, ("=",))
        if len(lefts) == 1 and len(rights) == 1:
            bare = set_of_membership(gold), set_of_membership(answer)
            return None if bare == (gold, answer) else self.same(*bare)
        if any(not part.strip() for part in lefts + rights):
            return None
        if len(lefts) == 1:
            return self.same(gold, rights[-1])
        if len(rights) == 1:
            return has_name(lefts[0]) and self.same(lefts[-1], answer)
        if not (has_name(lefts[0]) and has_name(rights[0])):
            return None
        if squeeze(lefts[0]) == squeeze(rights[-1]) and squeeze(lefts[-1]) == squeeze(rights[0]):
            return True
        return same_name(lefts[0], rights[0]) and self.same(lefts[-1], rights[-1])

    def _unions(self, gold: str, answer: str) -> bool | None:
        lefts, rights = split_top(gold, ("\\cup",)), split_top(answer, ("\\cup",))
        if len(lefts) == len(rights) > 1 and self._paired(lefts, rights):
            self.how = "union"
            return True
        return self._symbolic(gold, answer) if max(len(lefts), len(rights)) > 1 else None

    def _leaves(self, gold: str, answer: str) -> bool:
        lefts, rights = both_signs(gold), both_signs(answer)
        if len(lefts) != 1 or len(rights) != 1:
            return self._paired(lefts, rights)
        clocks = _CLOCK.fullmatch(plain(gold)), _CLOCK.fullmatch(plain(answer))
        if clocks[0] and clocks[1]:
            self.how = "time"
            return _same_time(clocks[0], clocks[1])
        (left, left_unit), (right, right_unit) = split_unit(gold), split_unit(answer)
        if (left, right) != (gold, answer):
            return not (left_unit and right_unit and left_unit != right_unit) and self.same(left, right)
        moduli = _MODULUS.search(gold), _MODULUS.search(answer)
        if moduli[0] or moduli[1]:
            agree = not (moduli[0] and moduli[1]) or moduli[0][1] == moduli[1][1]
            return agree and self.same(_MODULUS.sub("", gold), _MODULUS.sub("", answer))
        if _PERCENT.search(gold) or _PERCENT.search(answer):
            self.how = "percent"
            return self._same_percent(gold, answer)
        left, right = without_parentheses(gold), without_parentheses(answer)
        if (left, right) != (gold, answer):
            return self.same(left, right)
        based = _BASED.fullmatch(squeeze(gold))
        if based and based[2]:
            self.how = "base"
            found = _BASED.fullmatch(squeeze(answer).replace("_{10}", "_10"))
            bases = {match[2].strip("{}") for match in (based, found) if match and match[2]}
            return found is not None and found[1] == based[1] and len(bases) == 1
        if re.fullmatch(r"\d+_(\w+|\{\w+\})", squeeze(answer)):
            return False
        if is_words(gold) or is_words(answer):
            self.how = "text"
            return words_of(gold) == words_of(answer)
        return self._symbolic(gold, answer)

    def _same_percent(self, gold: str, answer: str) -> bool:
        """Equal without the signs or, where one side has the sign, with it read as a hundredth."""
        left, right = _PERCENT.sub("", gold), _PERCENT.sub("", answer)
        if self.same(left, right):
            return True
        numbers = number(left), number(right)
        scale = 100 if left != gold else Fraction(1, 100)
        one_sign = left == gold or right == answer
        return bool(one_sign and numbers[0] and numbers[1] and numbers[0].value == numbers[1].value * scale)

    def _symbolic(self, gold: str, answer: str) -> bool:
        seconds = self.deadline - time.thread_time()
        if seconds <= 0:
            self.timed_out = True
            return False
        left, right = to_latex(gold), to_latex(answer)
        if is_too_large(left) or is_too_large(right):
            self.how = "too large"
            return False
        self.how = "symbolic"
        result = WORKER.equal(left, right, seconds)
        self.deadline -= result.seconds
        self.timed_out = self.timed_out or result.equal is None
        return bool(result.equal)

    def _paired(self, lefts: list[str], rights: list[str]) -> bool:
        """Whether the items pair up in some order. Equal spellings first, to leave less to the algebra."""
        if len(lefts) != len(rights):
            return False
        spelled: dict[str, list[str]] = {}
        for right in rights:
            spelled.setdefault(squeeze(right), []).append(right)
        left_over = [left for left in lefts if not (twins := spelled.get(squeeze(left))) or not twins.pop()]
        rest = [right for twins in spelled.values() for right in twins]
        for left in left_over:
            if (twin := next((i for i, right in enumerate(rest) if self.same(left, right)), None)) is None:
                return False
            rest.pop(twin)
        return True


def _same_time(*clocks: re.Match[str]) -> bool:
    """10:30 agrees with 10:30:00 and 10:30 AM, 20:30 with 8:30 PM; 10:30 AM and 10:30 PM differ."""
    times = []
    for match in clocks:
        hour, half = int(match[1]), (match[4] or "").lower()[:1]
        if half and 1 <= hour <= 12:
            hour = hour % 12 + (12 if half == "p" else 0)
        times.append((hour, half, (int(match[2]), int(match[3] or 0))))
    (left, left_half, left_rest), (right, right_half, right_rest) = times
    plain_hour = right if left_half else left
    if bool(left_half) != bool(right_half) and 1 <= plain_hour <= 12:
        left, right = left % 12, right % 12  # one side does not name the half of the day
    return left == right and left_rest == right_rest
