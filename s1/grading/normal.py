"""One spelling for answers that mean the same, and numbers read from them; no heavy imports.

Everything here works on strings. `clean` removes what carries no meaning (styling, spacing, outer
dollar signs) and gives the rest one spelling. `number` reads a plain number exactly.
"""

from __future__ import annotations

import numbers
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from s1.errors import BadInput

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = {
    "−": "-", "–": "-", "×": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ", "÷": "/", "π": "\\pi ",
    "∞": "\\infty ", "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "±": "\\pm ", "∪": "\\cup ",
    "∩": "\\cap ", "∈": "\\in ", "≈": "\\approx ", "∅": "\\emptyset ", "°": "^\\circ ", "√": "\\sqrt ",
    "⟨": "\\langle ", "⟩": "\\rangle ", "€": "", "£": "", "¥": "", "₹": "", "％": "%", "，": ",", "。": ".",
    "θ": "\\theta ",
}  # fmt: skip
_TEXT = re.compile(
    r"\\(?:text(?:bf|it|rm|normal|sf|tt)?|mbox|hbox|mathrm|mathbf|mathsf|mathit|operatorname\*?)\s*\{([^{}]*)\}"
)
TEXT_OPEN, TEXT_CLOSE = "\x02", "\x03"
_STYLE = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|nolimits|quad|qquad|mathstrut)(?![a-zA-Z])\s*\.?"
)
_SYSTEM = re.compile(
    r"(?:\\left\s*\\\{\s*)?\\begin\{(cases|aligned|gathered)\}(.*?)\\end\{\1\}(?:\s*\\right\s*\.)?", re.S
)
_ELLIPSIS = re.compile(r"\.{3,}|\\(?:dots[a-z]?|cdots)(?![a-zA-Z])")
_DEGREE = r"(?:\^\s*\{\s*\\(?:circ|degree)\s*\}|\^?\s*\\(?:circ|degree)(?![a-zA-Z]))"
_TEMPERATURE = re.compile(rf"{_DEGREE}\s*(?:\\(?:text|mathrm)\s*\{{\s*([CF])\s*\}}|([CF])(?![a-zA-Z]))")
_TRIGONOMETRIC = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)(?![a-zA-Z])")
_SPACE = re.compile(r"(?<!\\)\\[,!;:> ]|~")
_SAME = (
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\(?:geqslant|geq|ge)(?![a-zA-Z])|>="), r"\\geq "),
    (re.compile(r"\\(?:leqslant|leq|le)(?![a-zA-Z])|<="), r"\\leq "),
    (re.compile(r"\\(?:neq|ne)(?![a-zA-Z])|!="), r"\\neq "),
    (re.compile(r"\\lg(?![a-zA-Z])"), r"\\log_{10}"),
    (re.compile(r"\{:\}"), ":"),
    (re.compile(r"^\s*(?:USD|EUR|GBP|US|Rs\.?)\s*(?=\d)"), ""),
    (re.compile(r"^\s*(?:\\approx|(?:approximately|about|roughly|around|exactly)(?![a-zA-Z]))\s*"), ""),
    (re.compile(r"\\lt(?![a-zA-Z])"), "<"),
    (re.compile(r"\\gt(?![a-zA-Z])"), ">"),
    (re.compile(r"\\varnothing(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\(?:lbrace)(?![a-zA-Z])"), r"\\{"),
    (re.compile(r"\\(?:rbrace)(?![a-zA-Z])"), r"\\}"),
    (re.compile(r"\\(?:lbrack)(?![a-zA-Z])"), "["),
    (re.compile(r"\\(?:rbrack)(?![a-zA-Z])"), "]"),
    (re.compile(r"\\bigcup(?![a-zA-Z])"), r"\\cup"),
    (re.compile(r"\\(?:simeq|doteq)(?![a-zA-Z])"), r"\\approx "),
    (re.compile(r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", re.I), r"\\infty "),
    (re.compile(r"\\(?:mathbb|mathbf)\s*(?:\{R\}|R)|\\R(?![a-zA-Z])"), r"(-\\infty ,\\infty )"),
    (re.compile(r"\\overline\s*\{([A-Z]{2,})\}"), r"\1"),
    (re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\s*([+-]?\d{2,}|-\d)"), r"^{\1}"),
    (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"(?<![a-zA-Z\\])sqrt(?=\s*\()"), r"\\sqrt"),
    (re.compile(r"([A-Za-z]|\d+|\([^()]*\))!\s*\^"), r"(\1!)^"),
    (re.compile(r"=="), "="),
)
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))


def as_text(value: object) -> str:
    """An answer as text: numbers as they are written, None as nothing, a tuple, list or set of answers as such.

    Raises BadInput for any other type.
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, numbers.Number) and not isinstance(value, complex):
        return str(value)
    if isinstance(value, (tuple, list, set, frozenset)):
        items = ", ".join(as_text(item) for item in value)
        return (
            f"({items})"
            if isinstance(value, tuple)
            else items
            if isinstance(value, list)
            else f"\\{{{items}\\}}"
        )
    raise BadInput(f"An answer of type {type(value).__name__}: {value!r:.60}.", "Give text or a number.")


def clean(text: str) -> str:
    """`text` in one spelling: outer wrappers, styling and spacing removed, fractions and roots braced.

    Words of `\\text{...}` stay, marked by control characters that `plain` removes.
    """
    text = _ascii(text).strip()
    text = _ELLIPSIS.sub(r"\\ldots ", text)
    text = _unwrap(_balanced(text))
    text = re.sub(r"(?:\\\\\s*)+$", "", text)
    text = _SYSTEM.sub(_rows, text)
    text = re.sub(r"(?<=\d),\s*\\!\s*(?=\d{3})", ",", text)
    text = _STYLE.sub(" ", _SPACE.sub("", text))
    text = _TEMPERATURE.sub(lambda m: f"\\text{{deg{m.group(1) or m.group(2)}}}", text)
    text = _degrees(text)
    # A quantity within \text is no word: \text{12 m/s}.
    text = _TEXT.sub(
        lambda m: m[1] if re.match(r"\s*[-+]?\.?\d", m[1]) else f"{TEXT_OPEN}{m[1]}{TEXT_CLOSE}", text
    )
    for pattern, replacement in _SAME:
        text = pattern.sub(replacement, text)
    text = re.sub(r"\\?\$", "", text)
    text = text.replace("\\%", "%")
    text = _brace_arguments(text)
    text = re.sub(r"\s+", " ", text).strip()
    return text.rstrip(".,;: \\").strip()


def _rows(system: re.Match[str]) -> str:
    """The rows of a system as a list; values by cases, which have conditions, as they are."""
    if system[1] == "cases" and "&" in system[2]:
        return system[0]
    return ", ".join(row for row in system[2].replace("&", "").split("\\\\") if row.strip())


def plain(text: str) -> str:
    """`text` without the marks that `clean` left around words."""
    return re.sub(r"\s+", " ", text.replace(TEXT_OPEN, " ").replace(TEXT_CLOSE, " ")).strip()


def squeeze(text: str) -> str:
    """`plain(text)` without needless spaces and braces, for comparing spellings.

    A space between digits stays: 1 4/5 is not 14/5.
    """
    text = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", plain(text))
    return re.sub(r"([_^])\{([0-9A-Za-z])\}", r"\1\2", text)


def closing(text: str, start: int, opener: str = "{", closer: str = "}") -> int:
    """Index of the `closer` that matches the `opener` at `start`, or -1. Escaped braces do not count."""
    depth = 0
    i = start
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        if text[i] == opener:
            depth += 1
        elif text[i] == closer:
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def _degrees(text: str) -> str:
    """Degree signs dropped, except under a sine and its like, where they become radians."""
    if _TRIGONOMETRIC.search(text):
        text = re.sub(rf"(\d+(?:\.\d+)?)\s*{_DEGREE}", r"\\frac{\1\\pi}{180}", text)
    return re.sub(_DEGREE, "", text)


def _balanced(text: str) -> str:
    """`text` with braces that never close closed at its end, and those that never opened dropped."""
    out: list[str] = []
    depth = 0
    for piece in re.findall(r"\\.|[{}]|[^\\{}]+|\\", text, re.S):
        if piece == "}" and depth == 0:
            continue
        depth += (piece == "{") - (piece == "}")
        out.append(piece)
    return "".join(out) + "}" * depth


def _ascii(text: str) -> str:
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda m: "^{" + m.group().translate(_SUPERSCRIPTS) + "}", text)
    text = re.sub(r"[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m.group().translate(_SUBSCRIPTS) + "}", text)
    for symbol, spelling in _SYMBOLS.items():
        text = text.replace(symbol, spelling)
    return unicodedata.normalize("NFKC", text).replace("\u2044", "/")


def _unwrap(text: str) -> str:
    while True:
        before = text
        text = text.strip().rstrip(".").strip() if not text.endswith("\\.") else text
        for left, right in _WRAPPERS:
            if text.startswith(left) and text.endswith(right) and len(text) > len(left) + len(right):
                inner = text[len(left) : len(text) - len(right)]
                if left not in inner and not inner.endswith("\\"):
                    text = inner
        box = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
        if box >= 0 and (end := closing(text, brace := text.index("{", box))) > 0:
            text = text[brace + 1 : end]
        if text == before:
            return text


_TAKES_ARGUMENTS = re.compile(r"\\(frac|sqrt|binom)(?![a-zA-Z])")


def _brace_arguments(text: str) -> str:
    """`\\frac12` and `\\sqrt3` with their arguments in braces, however they were written."""
    out: list[str] = []
    i = 0
    while i < len(text):
        match = _TAKES_ARGUMENTS.match(text, i)
        if match is None:
            out.append(text[i])
            i += 1
            continue
        out.append(match.group())
        i = match.end()
        if match.group(1) == "sqrt":
            i = _skip(text, i)
            if text[i : i + 1] == "[" and (end := text.find("]", i)) > 0:
                out.append(text[i : end + 1])
                i = end + 1
        for _ in range(1 if match.group(1) == "sqrt" else 2):
            argument, i = _argument(text, i)
            out.append("{" + _brace_arguments(argument) + "}")
    return "".join(out)


def _skip(text: str, i: int) -> int:
    while i < len(text) and text[i] == " ":
        i += 1
    return i


def _argument(text: str, i: int) -> tuple[str, int]:
    i = _skip(text, i)
    if i >= len(text):
        return "", i
    for opener, closer in (("{", "}"), ("(", ")")):
        if text[i] == opener and (end := closing(text, i, opener, closer)) > 0:
            return text[i + 1 : end], end + 1
    command = re.compile(r"\\[a-zA-Z]+").match(text, i)
    if command:
        end = command.end()
        while text[end : end + 1] == "{" and (close := closing(text, end)) > 0:  # \frac\sqrt{3}2
            end = close + 1
        return text[i:end], end
    return text[i], i + 1


@dataclass(frozen=True, slots=True)
class Number:
    """A number read exactly. `places` counts the digits after the point, None where it has no point."""

    value: Fraction
    places: int | None = None


_DIGITS = r"\d+(?:\.\d*)?|\.\d+"
_PLAIN = re.compile(rf"({_DIGITS})")
_SLASH = re.compile(rf"({_DIGITS})/({_DIGITS})")
_FRAC = re.compile(rf"\\frac\{{([+-]?(?:{_DIGITS}))\}}\{{([+-]?(?:{_DIGITS}))\}}")
_MIXED = re.compile(r"(\d+|\d{1,3}(?: \d{3})+)(?:\s*\\frac\{(\d+)\}\{(\d+)\}|(?:\s+|\s*\+\s*)(\d+)/(\d+))")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot)\{?(\d+)\}?")
_OPEN_ENDED = re.compile(r"(\d*)\.(\d*?)(?:(\d)\3{2,}|(\d{2,}?)\4+)\s*\\ldots")
_POWER = re.compile(
    rf"(?:({_DIGITS})\s*(?:\\times|\\cdot|\*|x)\s*)?10\s*\^\s*\{{?\s*([+-]?\d{{1,3}})\s*\}}?"
    rf"|({_DIGITS})[eE]([+-]?\d{{1,3}})"
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
_SPACED = re.compile(r"\d{1,3}(?: \d{3})+(?:\.\d+)?")


def join_thousands(text: str) -> str:
    """`text` with 1,000 written as 1000. A comma followed by a space separates, and stays."""
    return _THOUSANDS.sub(lambda m: m.group().replace(",", ""), text)


def number(text: str) -> Number | None:
    """The number that `text` spells: integer, decimal, fraction, mixed number or scientific notation.

    None where it is anything else, or longer than any answer has reason to be.
    """
    text = plain(join_thousands(text))
    if len(text) > 400:
        return None
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    scale = 1
    for word, factor in _SCALES.items():
        if text.lower().endswith(" " + word):
            text, scale = text[: -len(word)].strip(), factor
    sign = 1
    while text[:1] in ("-", "+"):
        sign = -sign if text[0] == "-" else sign
        text = text[1:].strip()
    while (
        text.startswith(("(", "{"))
        and closing(text, 0, text[0], ")" if text[0] == "(" else "}") == len(text) - 1
    ):
        text = text[1:-1].strip()
        if text[:1] == "-":
            sign, text = -sign, text[1:].strip()
    if match := _PLAIN.fullmatch(text):
        point = text.find(".")
        return Number(sign * scale * Fraction(text), None if point < 0 else len(text) - point - 1)
    squeezed = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)
    if match := _SLASH.fullmatch(squeezed) or _FRAC.fullmatch(squeezed):
        below = Fraction(match.group(2))
        return Number(sign * scale * Fraction(match.group(1)) / below) if below else None
    if match := _MIXED.fullmatch(text):
        whole, above, below_text = (
            int(match.group(1).replace(" ", "")),
            match.group(2) or match.group(4),
            match.group(3) or match.group(5),
        )
        if 0 <= int(above) < int(below_text):
            return Number(sign * scale * (whole + Fraction(int(above), int(below_text))))
        return None
    if match := _REPEATING.fullmatch(squeezed) or _OPEN_ENDED.fullmatch(squeezed):
        block = next(g for g in match.groups()[2:] if g)
        return Number(sign * scale * _repeating(match.group(1), match.group(2), block))
    if match := _POWER.fullmatch(text):
        factor_text, power = match.group(1) or match.group(3) or "1", int(match.group(2) or match.group(4))
        places = len(factor_text) - factor_text.find(".") - 1 if "." in factor_text else 0
        value = sign * scale * Fraction(factor_text) * Fraction(10) ** power
        return Number(value, places - power if places >= 6 else None)
    return None


def _repeating(whole: str, start: str, block: str) -> Fraction:
    """0.1666... of ("0", "1", "6")."""
    tail = Fraction(int(block), 10 ** len(block) - 1)
    return int(whole or 0) + (int(start or 0) + tail) * Fraction(f"1e-{len(start)}")


def same_number(gold: Number, answer: Number) -> bool:
    """Equal exactly, or one is a decimal of six places or more that the other rounds or cuts to."""
    if gold.value == answer.value:
        return True
    places = max((n.places for n in (gold, answer) if n.places is not None), default=0)
    if gold.places is not None and answer.places is not None:
        places = min(gold.places, answer.places)
    difference = abs(gold.value - answer.value)
    # Of a small number six places may be one digit.
    return places >= 6 and difference < Fraction(1, 10**places) and 1000 * difference < abs(gold.value)
