"""How an answer is built: its items and brackets, equations, matrices, words. Strings in, strings out.

All functions take text that `normal.clean` has cleaned.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from s1.grading.normal import clean, closing, join_thousands, plain, squeeze

RELATION = re.compile(r"[<>]|\\(?:leq|geq|neq|in)(?![a-zA-Z])")
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.S)
_INDEXED = r"\\?[A-Za-z]+'*(?:\s*_\s*(?:\{[^{}]*\}|\w))?(?:\s*\^\s*\{-1\})?(?:\s*\([^()=]*\))?\s*"
_NAME = re.compile(rf"{_INDEXED}(?:\s[A-Za-z_0-9{{}} ]+)?|\([A-Za-z_0-9{{}}, \\]+\)")
_SIDE = r"(?:[A-Z]+(?:_\{?\w+\}?)?|\|[A-Z]+\||[a-z]_\{?\w+\}?)"
_RATIO = re.compile(
    rf"{_SIDE}\s*(?::\s*{_SIDE}\s*)+|{_SIDE}\s*/\s*{_SIDE}|\\frac\{{{_SIDE}\}}\{{{_SIDE}\}}|\|[A-Z]+\|"
    r"|\\?(?:sin|cos|tan|cot|angle|triangle|measuredangle)\s*(?:\\[a-z]+|[a-zA-Z]{1,3})"
)
"""What geometry names: AB:CD, \\frac{AB}{CD}, |AB|, \\sin A, \\angle ABC."""
_FUNCTIONS = re.compile(r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|lim|max|min|gcd|lcm|mod|sqrt|arctan)\b")
OPENERS = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_SAID = {
    "no solutions": "no solution", "emptyset": "no solution", "empty set": "no solution",
    "the empty set": "no solution", "dne": "does not exist", "doesn t exist": "does not exist",
}  # fmt: skip
"""What is said in several ways."""
_TOKEN = re.compile(r"\\\{|\\\}|\\[a-zA-Z]+|\\\\|.", re.S)


class Sequence(NamedTuple):
    """The items of a list, set, tuple or interval, with its brackets ("" for a list without)."""

    opener: str
    closer: str
    items: list[str]

    @classmethod
    def of(cls, text: str) -> Sequence:
        text = text.strip()
        if text.startswith("{") and closing(text, 0) == len(text) - 1:  # TeX grouping, not a set
            text = text[1:-1].strip()
        tokens = [(m.group(), m.start()) for m in _TOKEN.finditer(text)]
        if tokens and tokens[0][0] in OPENERS:
            depth = 0
            for position, (token, start) in enumerate(tokens):
                depth += (token in OPENERS) - (token in OPENERS.values())
                if depth == 0:
                    if position == len(tokens) - 1 and (tokens[0][0] == "\\{") == (token == "\\}"):
                        inner = text[len(tokens[0][0]) : start]
                        opener = "(" if tokens[0][0] == "\\langle" else tokens[0][0]
                        return cls(
                            opener, ")" if token == "\\rangle" else token, items_of(inner, words=False)
                        )
                    break
        return cls("", "", items_of(text, words=True))

    @property
    def is_set(self) -> bool:
        return self.opener == "\\{"

    @property
    def unordered(self) -> bool:
        return self.opener in ("", "\\{")

    @property
    def brackets(self) -> tuple[str, str]:
        return self.opener, self.closer


def items_of(text: str, words: bool) -> list[str]:
    if words and not RELATION.search(text):
        text = re.sub(
            r"\x02\s*(?:and|or)\s*\x03|(?<=[\d)}\s])(?:and|or)(?=[\s\d(\\-]|[A-Za-z]\s*[(=])", ",", text
        )
        text = re.sub(r",\s*,", ",", text)
    return [item.strip() for item in split_top(text, (",", ";")) if item.strip()]


def only_item(sequence: Sequence, text: str) -> str:
    return sequence.items[0] if sequence.is_set and sequence.items else text


def split_top(text: str, separators: tuple[str, ...]) -> list[str]:
    """`text` split at separators outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in "([{" or token in OPENERS) - (token in ")]}" or token in OPENERS.values())
        if token in separators and depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def both_signs(text: str) -> list[str]:
    """`a \\pm b` as its two values; at most one sign is resolved, all others stay."""
    pieces = re.split(r"\\(?:pm|mp)(?![a-zA-Z])", text)
    if len(pieces) != 2 or "," in text:
        return [text]
    return [f"{pieces[0]}+{pieces[1]}".lstrip("+ "), f"{pieces[0]}-{pieces[1]}"]


def with_both_signs(sequence: Sequence) -> list[str]:
    """The items with \\pm resolved; sets, and lists of points, hold each of them once."""
    items = [part for item in sequence.items for part in both_signs(item)]
    points = all(item.startswith("(") for item in items)
    return list({squeeze(item): item for item in items}.values()) if sequence.is_set or points else items


def has_name(side: str) -> bool:
    """Whether one side of an equation only names the other: x, f(x), m_{max}, (x, y), Area."""
    name = plain(side).strip()
    return bool(_NAME.fullmatch(name) or _RATIO.fullmatch(name))


def exact_side(text: str) -> str:
    """What stands before an approximation: "x = 1/3" of "x = 1/3 \\approx 0.33"; "11" of "x \\approx 11"."""
    parts = split_top(text, ("\\approx",))
    if len(parts) == 1:
        return text
    return parts[-1] if has_name(parts[0]) else parts[0]


def set_of_membership(text: str) -> str:
    """ "[0,1]" of "x \\in [0,1]"."""
    parts = split_top(text, ("\\in",))
    return parts[1].strip() if len(parts) == 2 and has_name(parts[0]) else text


def same_name(left: str, right: str) -> bool:
    """Whether two sides name the same: P(x) and p(n) do, as do y and f(x); (x,y) and (y,x) do not."""
    names = [re.sub(r"(?<=[A-Za-z\d}'])\(.*\)$", "()", squeeze(name)) for name in (left, right)]
    if all(re.fullmatch(r"[A-Za-z](?:\(\))?", name) for name in names):
        names = [name.lower() for name in names]
    return names[0] == names[1] or set(names) == {"y", "f()"}


def matrix_rows(text: str) -> list[list[str]] | None:
    """The cells of a matrix, row by row, in LaTeX or as [[1,2],[3,4]]; None for anything else."""
    text = text.strip()
    nested = Sequence.of(text)
    if nested.brackets == ("[", "]") and nested.items:
        inner = [Sequence.of(item) for item in nested.items]
        if all(row.brackets == ("[", "]") for row in inner):
            return [row.items for row in inner]
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        text = text[1:-1].strip()
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match.group(2):
        return None
    rows = [
        row
        for row in re.split(r"\\\\|\\cr(?![a-zA-Z])", match.group(2).replace("\\hline", ""))
        if row.strip()
    ]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def vector(text: str) -> list[str] | None:
    """The entries of a matrix of one column or one row, or of (1,2) or [1,2]; None for anything else."""
    if (rows := matrix_rows(text)) is not None and "\\begin" in text:
        return rows[0] if len(rows) == 1 else [row[0] for row in rows] if len(rows[0]) == 1 else None
    listed = Sequence.of(text)
    return listed.items if listed.brackets in (("(", ")"), ("[", "]")) and len(listed.items) > 1 else None


def joined_sets(text: str) -> str:
    """{1,3} \\cup {2} as {1,3,2}; any other text as it is."""
    parts = [Sequence.of(part) for part in split_top(text, ("\\cup",))]
    if len(parts) < 2 or not all(part.is_set for part in parts):
        return text
    items = {squeeze(item): item for part in parts for item in part.items}
    return "\\{" + ",".join(items.values()) + "\\}"


_LETTERED = re.compile(r"\x02?\s*(?:\(([A-J])\)\s*\x03?\s*|([A-J])[.)]\s*\x03?\s+)(\S.*)")


def lettered(text: str) -> tuple[str, str] | None:
    """("C", "12") of (C) 12 or C. 12, the letter and content of an option; None for anything else."""
    match = _LETTERED.fullmatch(text)
    return (match.group(1) or match.group(2), match.group(3)) if match else None


def without_parentheses(text: str) -> str:
    text = text.strip()
    for opener, closer in (("(", ")"), ("{", "}")):
        if text.startswith(opener) and closing(text, 0, opener, closer) == len(text) - 1:
            return text[1:-1].strip()
    return text


def is_words(text: str) -> bool:
    """Words rather than a product of letters: a word of four letters, or three in `\\text`, no algebra."""
    bare = plain(text)
    if re.search(r"[\\=+*/^_<>|]|\d", bare) or _FUNCTIONS.search(bare):
        return False
    marked = "\x02" in text and bool(re.search(r"[^\W\d_]{2,}", bare))
    return marked or bool(re.search(r"[^\W\d_]{4,}", bare))


def nesting(text: str) -> int:
    """The depth of brackets of any kind, or the number of powers where that is more."""
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return max(deepest, text.count("^"))


def to_latex(text: str) -> str:
    text = join_thousands(text).replace("*", "\\cdot ")
    text = re.sub(r"\x02([^\x03]*)\x03", r"\\text{\1}", text)
    return re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)


def words_of(text: str) -> str:
    """Lower case without punctuation; what is said in several ways in one."""
    words = " ".join(re.sub(r"[^\w\s.+-]|\.(?!\d)", " ", plain(clean(text)).casefold()).split())
    words = re.sub(r"^(?:there (?:is|are)|it has|has) (?=no )", "", words)
    return _SAID.get(words, words)
