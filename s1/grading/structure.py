"""How an answer is built: its items and brackets, equations, matrices, words. Strings in, strings out.

All functions take text that `normal.clean` has cleaned.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from s1.grading.normal import clean, closing, join_thousands, number, plain, squeeze

RELATION = re.compile(r"[<>]|\\(?:leq|geq|neq|in)(?![a-zA-Z])")
_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|smallmatrix|array)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}", re.S)
_INDEXED = r"\\?[A-Za-z]+'*(?:\s*_\s*(?:\{[^{}]*\}|\w))?(?:\s*\^\s*\{-1\})?(?:\s*\([^()=]*\))?\s*"
_NAME = re.compile(rf"{_INDEXED}(?:\s[A-Za-z_0-9{{}} ]+)?|\([A-Za-z_0-9{{}}, \\]+\)")
_SIDE = r"(?:[A-Z]+(?:_\{?\w+\}?)?|\|[A-Z]+\||[a-z]_\{?\w+\}?)"
_GEOMETRY = re.compile(
    rf"{_SIDE}\s*(?::\s*{_SIDE}\s*)+|{_SIDE}\s*/\s*{_SIDE}|\\frac\{{{_SIDE}\}}\{{{_SIDE}\}}|\|[A-Z]+\|"
    r"|\\?(?:sin|cos|tan|cot|angle|triangle|measuredangle)\s*(?:\\[a-z]+|[a-zA-Z]{1,3})"
)
"""Names of geometry: AB:CD, \\frac{AB}{CD}, |AB|, \\sin A, \\angle ABC."""
_FUNCTIONS = re.compile(r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|lim|max|min|gcd|lcm|mod|sqrt|arctan)\b")
_LETTERED = re.compile(r"\x02?\s*(?:\(([A-J])\)\s*\x03?\s*|([A-J])[.)]\s*\x03?\s+)(\S.*)")
_SYNONYMS = {
    "no solutions": "no solution", "emptyset": "no solution", "empty set": "no solution",
    "the empty set": "no solution", "dne": "does not exist", "doesn t exist": "does not exist",
}  # fmt: skip
_RESTATED = re.compile(
    r"(?P<main>[^()]*[^()\s](?:\([^()]*\)[^()]*)*?)\s*\\?\(\s*"
    r"(?:(?P<near>\\approx|approx(?:\.|imately)?|about|roughly|rounded|to \d+ )"
    r"|(?P<same>or(?: equivalently)?,?(?![a-z])|i\.?e\.?,?(?![a-z])|that is,?"
    r"|which (?:is|equals)|equivalently,?|equal to|=))?"
    r"\s*(?P<other>.*?)\s*\\?\)"
)
_TOKEN = re.compile(r"\\\{|\\\}|\\[a-zA-Z]+|\\\\|.", re.S)
OPENERS, CLOSERS = ("(", "[", "\\{", "\\langle"), (")", "]", "\\}", "\\rangle")


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
        depth, opener = 0, ""
        for token in _TOKEN.finditer(text):
            opener = opener or token[0]
            depth += (token[0] in OPENERS) - (token[0] in CLOSERS)
            if depth <= 0:
                if (
                    opener in OPENERS
                    and token.end() == len(text)
                    and (opener == "\\{") == (token[0] == "\\}")
                ):
                    items = _items(text[len(opener) : token.start()])
                    return cls(opener.replace("\\langle", "("), token[0].replace("\\rangle", ")"), items)
                break
        if not RELATION.search(text):
            text = re.sub(
                r"\x02\s*(?:and|or)\s*\x03|(?<=[\d)}\s])(?:and|or)(?=[\s\d(\\-]|[A-Za-z]\s*[(=])", ",", text
            )
            text = re.sub(r",\s*,", ",", text)
        return cls("", "", _items(text))

    @property
    def is_set(self) -> bool:
        return self.opener == "\\{"

    @property
    def unordered(self) -> bool:
        return self.opener in ("", "\\{")

    @property
    def brackets(self) -> tuple[str, str]:
        return self.opener, self.closer


def _items(text: str) -> list[str]:
    return [item.strip() for item in split_top(text, (",", ";")) if item.strip()]


def split_top(text: str, separators: tuple[str, ...]) -> list[str]:
    """`text` split at separators outside all brackets."""
    parts, depth, start = [], 0, 0
    for match in _TOKEN.finditer(text):
        token = match[0]
        depth += (token in ("{", *OPENERS)) - (token in ("}", *CLOSERS))
        if token in separators and depth == 0:
            parts.append(text[start : match.start()])
            start = match.end()
    return [*parts, text[start:]]


def both_signs(text: str) -> list[str]:
    """`a \\pm b` as its two values. Text with more than one such sign stays as it is."""
    pieces = re.split(r"\\(?:pm|mp)(?![a-zA-Z])", text)
    if len(pieces) != 2 or "," in text:
        return [text]
    return [f"{pieces[0]}+{pieces[1]}".lstrip("+ "), f"{pieces[0]}-{pieces[1]}"]


def with_both_signs(sequence: Sequence) -> list[str]:
    """The items with \\pm resolved. Sets, and lists of points, hold each of them once."""
    items = [part for item in sequence.items for part in both_signs(item)]
    points = all(item.startswith("(") for item in items)
    return list({squeeze(item): item for item in items}.values()) if sequence.is_set or points else items


def has_name(side: str) -> bool:
    """Whether one side of an equation only names the other: x, f(x), m_{max}, (x, y), Area."""
    name = plain(side)
    return bool(_NAME.fullmatch(name) or _GEOMETRY.fullmatch(name))


def exact_side(text: str) -> str:
    """The exact value: "x = 1/3" of "x = 1/3 \\approx 0.33"; "11" of "x \\approx 11"."""
    parts = split_top(text, ("\\approx",))
    return parts[-1] if has_name(parts[0]) and len(parts) > 1 else parts[0]


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
    """The cells of a matrix, row by row, in LaTeX or as [[1,2],[3,4]]. None for anything else."""
    text = text.strip()
    nested = Sequence.of(text)
    if nested.brackets == ("[", "]") and nested.items:
        inner = [Sequence.of(item) for item in nested.items]
        if all(row.brackets == ("[", "]") for row in inner):
            return [row.items for row in inner]
    if text[:1] in ("(", "[") and text[-1:] in (")", "]"):
        text = text[1:-1].strip()
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match[2]:
        return None
    rows = re.split(r"\\\\|\\cr(?![a-zA-Z])", match[2].replace("\\hline", ""))
    return [[cell.strip() for cell in row.split("&")] for row in rows if row.strip()]


def vector(text: str) -> list[str] | None:
    """The entries of a matrix of one column or one row, or of (1,2) or [1,2]. None for anything else."""
    if (rows := matrix_rows(text)) is not None and "\\begin" in text:
        return rows[0] if len(rows) == 1 else [row[0] for row in rows] if len(rows[0]) == 1 else None
    listed = Sequence.of(text)
    return listed.items if listed.brackets in (("(", ")"), ("[", "]")) and len(listed.items) > 1 else None


def joined_sets(text: str) -> str:
    """{1,3} \\cup {2} as {1,3,2}. Any other text stays as it is."""
    parts = [Sequence.of(part) for part in split_top(text, ("\\cup",))]
    if len(parts) < 2 or not all(part.is_set for part in parts):
        return text
    items = {squeeze(item): item for part in parts for item in part.items}
    return "\\{" + ",".join(items.values()) + "\\}"


def lettered(text: str) -> tuple[str, str] | None:
    """("C", "12") of (C) 12 or C. 12: the letter and the content of an option. None for anything else."""
    match = _LETTERED.fullmatch(text)
    return (match[1] or match[2], match[3]) if match else None


def restated(text: str) -> tuple[str, str] | None:
    """("0.5", "50%") of 0.5 (or 50%): an answer and the same once more. "" for what is only an approximation."""
    bare = plain(text)
    if not bare.endswith(")") or len(bare) > 400:
        return None
    match = _RESTATED.fullmatch(bare)
    if match is None or match["other"].count("(") != match["other"].count(")"):
        return None
    if match["near"]:
        return match["main"].strip(), ""
    main, other = match["main"], match["other"]
    if not match["same"] and ("%" not in other or "%" in main):
        value = _value(main)  # 2 (3) is a product, 25% (1/4) the same number twice
        if value is None or value != _value(other) or squeeze(main) == squeeze(other):
            return None
    return main.strip(), other.strip()


def _value(text: str) -> Fraction | None:
    found = number(text.replace("%", ""))
    return found.value / (100 if "%" in text else 1) if found else None


def is_words(text: str) -> bool:
    """Words rather than a product of letters: a word of four letters, or two in `\\text`, and no algebra."""
    bare = plain(text)
    if re.search(r"[\\=+*/^_<>|]|\d", bare) or _FUNCTIONS.search(bare):
        return False
    return bool(re.search(r"[^\W\d_]{2,}" if "\x02" in text else r"[^\W\d_]{4,}", bare))


def words_of(text: str) -> str:
    """The words in lower case without punctuation, with one spelling for synonyms such as "empty set"."""
    words = " ".join(re.sub(r"[^\w\s.+-]|\.(?!\d)", " ", plain(clean(text)).casefold()).split())
    words = re.sub(r"^(?:there (?:is|are)|it has|has) (?=no )", "", words)
    return _SYNONYMS.get(words, words)


def to_latex(text: str) -> str:
    """LaTeX for the algebra, with the marks of `clean` turned back into `\\text{...}`."""
    text = join_thousands(text).replace("*", "\\cdot ")
    text = re.sub(r"\x02([^\x03]*)\x03", r"\\text{\1}", text)
    return re.sub(r"\^\s*\(([^()]*)\)", r"^{\1}", text)
