"""One spelling for answers that mean the same, and the numbers read from them.

Everything here works on strings. `clean` removes what carries no meaning (styling, spacing, outer
dollar signs) and gives the rest one spelling. `number` reads a number exactly.
"""

from __future__ import annotations

import numbers
import re
from dataclasses import dataclass
from fractions import Fraction

from s1.errors import BadInput
from s1.grading.notation import with_commands, without_ordinals, without_unicode

_SYMBOLS = {
    "−": "-", "–": "-", "×": "\\times ", "⋅": "\\cdot ", "·": "\\cdot ", "÷": "/", "π": "\\pi ",
    "∞": "\\infty ", "≤": "\\leq ", "≥": "\\geq ", "≠": "\\neq ", "±": "\\pm ", "∪": "\\cup ",
    "∩": "\\cap ", "∈": "\\in ", "≈": "\\approx ", "∅": "\\emptyset ", "°": "^\\circ ",
    "⟨": "\\langle ", "⟩": "\\rangle ", "€": "", "£": "", "¥": "", "₹": "", "。": ".", "θ": "\\theta ",
    "⌊": "\\lfloor ", "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "∠": "\\angle ", "•": "\\cdot ", "‒": "-",
    "′": "'",
}  # fmt: skip
_COMMANDS = {
    "\\frac": "dfrac tfrac cfrac", "\\binom": "dbinom tbinom", "\\geq ": "geqslant geq ge",
    "\\leq ": "leqslant leq le", "\\neq ": "neq ne", "\\log_{10}": "lg", "<": "lt", ">": "gt",
    "\\emptyset": "varnothing", "\\{": "lbrace", "\\}": "rbrace", "[": "lbrack", "]": "rbrack",
    "\\cup": "bigcup", "\\approx ": "simeq doteq",
}  # fmt: skip
_SPELLING = {f"\\{name}": spelling for spelling, names in _COMMANDS.items() for name in names.split()}
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
_REPLACED = (
    (re.compile(r"^\s*(?:USD|EUR|GBP|US|Rs\.?)\s*(?=\d)"), ""),
    (re.compile(r"^\s*(?:\\approx|(?:approximately|about|roughly|around|exactly)(?![a-zA-Z]))\s*"), ""),
    (re.compile(r"\\(?:mathbb|mathbf)\s*(?:\{R\}|R)|\\R(?![a-zA-Z])"), r"(-\\infty ,\\infty )"),
    (re.compile(r"\\[a-zA-Z]+"), lambda match: _SPELLING.get(match[0], match[0])),
    (re.compile(r">="), r"\\geq "),
    (re.compile(r"<="), r"\\leq "),
    (re.compile(r"!="), r"\\neq "),
    (re.compile(r"\{:\}"), ":"),
    (re.compile(r"(?<![a-zA-Z\\])(?:infinity|inf|oo)(?![a-zA-Z])", re.I), r"\\infty "),
    (re.compile(r"\\overline\s*\{([A-Z]{2,})\}"), r"\1"),
    (re.compile(r"\{([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\\{\s*\\\}"), r"\\emptyset "),
    (re.compile(r"(?<=\d)\{,\}(?=\d)"), ","),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\^\s*([+-]?\d{2,}|-\d)"), r"^{\1}"),
    (re.compile(r"(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi "),
    (re.compile(r"([A-Za-z]|\d+|\([^()]*\))!\s*\^"), r"(\1!)^"),
    (re.compile(r"=="), "="),
)
_WRAPPERS = (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]"), ("**", "**"), ("`", "`"))


def as_text(value: object) -> str:
    """An answer as text: "" for None, a number as written, a tuple, list or set of answers in its brackets.

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
        if isinstance(value, list):
            return items
        return f"({items})" if isinstance(value, tuple) else f"\\{{{items}\\}}"
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
    text = _TEMPERATURE.sub(lambda m: f"\\text{{deg{m[1] or m[2]}}}", text)
    if _TRIGONOMETRIC.search(text):
        text = re.sub(rf"(\d+(?:\.\d+)?)\s*{_DEGREE}", r"\\frac{\1\\pi}{180}", text)
    text = re.sub(_DEGREE, "", text)
    # Quantities are not words: \text{12 m/s}.
    text = _TEXT.sub(
        lambda m: m[1] if re.match(r"\s*[-+]?\.?\d", m[1]) else f"{TEXT_OPEN}{m[1]}{TEXT_CLOSE}", text
    )
    text = without_ordinals(text)
    for pattern, replacement in _REPLACED:
        text = pattern.sub(replacement, text)
    text = with_commands(text)
    text = re.sub(r"\\?\$", "", text).replace("\\%", "%")
    text = re.sub(r"\s+", " ", _brace_arguments(text)).strip()
    return text.rstrip(".,;: \\").strip()


def plain(text: str) -> str:
    """`text` without the marks that `clean` left around words."""
    return re.sub(r"\s+", " ", text.replace(TEXT_OPEN, " ").replace(TEXT_CLOSE, " ")).strip()


def squeeze(text: str) -> str:
    """`plain(text)` without needless spaces and braces, for comparing spellings.

    A space between digits stays: 1 4/5 is not 14/5.
    """
    return re.sub(r"([_^])\{([0-9A-Za-z])\}", r"\1\2", _without_spaces(plain(text)))


def _without_spaces(text: str) -> str:
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", text)


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


def without_parentheses(text: str) -> str:
    """`text` without one pair of parentheses or braces around all of it."""
    text = text.strip()
    for opener, closer in (("(", ")"), ("{", "}")):
        if text.startswith(opener) and closing(text, 0, opener, closer) == len(text) - 1:
            return text[1:-1].strip()
    return text


def _ascii(text: str) -> str:
    text = without_unicode(text)
    for symbol, spelling in _SYMBOLS.items():
        text = text.replace(symbol, spelling)
    return text


def _balanced(text: str) -> str:
    """`text` with its unclosed braces closed at the end, and the braces that never opened dropped."""
    out: list[str] = []
    depth = 0
    for piece in re.findall(r"\\.|[{}]|[^\\{}]+|\\", text, re.S):
        if piece == "}" and depth == 0:
            continue
        depth += (piece == "{") - (piece == "}")
        out.append(piece)
    return "".join(out) + "}" * depth


def _unwrap(text: str) -> str:
    """The content of the last box, or of the dollar signs, brackets or asterisks around all of `text`."""
    while True:
        before = text
        text = text.strip().rstrip(".").strip() if not text.endswith("\\.") else text
        for left, right in _WRAPPERS:
            inner = text[len(left) : -len(right)]
            if text == f"{left}{inner}{right}" and inner and left not in inner and not inner.endswith("\\"):
                text = inner
        box = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
        if box >= 0 and (end := closing(text, brace := text.index("{", box))) > 0:
            text = text[brace + 1 : end]
        if text == before:
            return text


def _rows(system: re.Match[str]) -> str:
    """The rows of a system as a list. Values by cases, which have conditions, are left as they are."""
    if system[1] == "cases" and "&" in system[2]:
        return system[0]
    return ", ".join(row for row in system[2].replace("&", "").split("\\\\") if row.strip())


def _brace_arguments(text: str) -> str:
    """`\\frac12` and `\\sqrt3` with their arguments in braces, however they were written."""
    out: list[str] = []
    while command := re.search(r"\\(frac|sqrt|binom)(?![a-zA-Z])", text):
        out.append(text[: command.end()])
        text = text[command.end() :].lstrip(" ")
        if command[1] == "sqrt" and (index := re.match(r"\[[^\]]*\]", text)):
            out.append(index[0])
            text = text[index.end() :]
        for _ in range(1 if command[1] == "sqrt" else 2):
            argument, text = _argument(text.lstrip(" "))
            out.append("{" + _brace_arguments(argument) + "}")
    return "".join(out) + text


def _argument(text: str) -> tuple[str, str]:
    """The argument that `text` begins with (a group, a command or one character), and the rest."""
    for opener, closer in (("{", "}"), ("(", ")")):
        if text.startswith(opener) and (end := closing(text, 0, opener, closer)) > 0:
            return text[1:end], text[end + 1 :]
    end = 1
    if command := re.match(r"\\[a-zA-Z]+", text):
        end = command.end()
        while text.startswith("{", end) and (close := closing(text, end)) > 0:  # \frac\sqrt{3}2
            end = close + 1
    return text[:end], text[end:]


@dataclass(frozen=True, slots=True)
class Number:
    """A number read exactly. `places` counts the digits after the point; None without a point."""

    value: Fraction
    places: int | None = None


_DIGITS = r"\d+(?:\.\d*)?|\.\d+"
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
    return _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)


def number(text: str) -> Number | None:
    """The number that `text` spells: integer, decimal, fraction, mixed number or scientific notation.

    None for anything else, and for text of more than 400 characters.
    """
    text = plain(join_thousands(text))
    if len(text) > 400:
        return None
    if _SPACED.fullmatch(text):
        text = text.replace(" ", "")
    factor = 1
    for word, scale in _SCALES.items():
        if text.lower().endswith(" " + word):
            text, factor = text[: -len(word)].strip(), scale
    while text.startswith(("-", "+")) or text != without_parentheses(text):
        factor = -factor if text[0] == "-" else factor
        text = text[1:].strip() if text[0] in "+-" else without_parentheses(text)
    found = _unsigned(text)
    return found and Number(factor * found.value, found.places)


def _unsigned(text: str) -> Number | None:
    if re.fullmatch(_DIGITS, text):
        return Number(Fraction(text), len(text) - text.find(".") - 1 if "." in text else None)
    squeezed = _without_spaces(text)
    if match := _SLASH.fullmatch(squeezed) or _FRAC.fullmatch(squeezed):
        below = Fraction(match[2])
        return Number(Fraction(match[1]) / below) if below else None
    if match := _MIXED.fullmatch(text):
        whole, above, under = (
            int(match[1].replace(" ", "")),
            int(match[2] or match[4]),
            int(match[3] or match[5]),
        )
        return Number(whole + Fraction(above, under)) if above < under else None
    if match := _REPEATING.fullmatch(squeezed) or _OPEN_ENDED.fullmatch(squeezed):
        whole_text, start, block = match[1], match[2], next(g for g in match.groups()[2:] if g)
        tail = Fraction(int(block), 10 ** len(block) - 1)
        return Number(int(whole_text or 0) + (int(start or 0) + tail) / 10 ** len(start))
    if match := _POWER.fullmatch(text):
        digits, power = match[1] or match[3] or "1", int(match[2] or match[4])
        places = len(digits) - digits.find(".") - 1 if "." in digits else 0
        return Number(Fraction(digits) * Fraction(10) ** power, places - power if places >= 6 else None)
    return None


def same_number(gold: Number, answer: Number) -> bool:
    """Equal exactly, or one is a decimal of six places or more that the other rounds or cuts to."""
    if gold.value == answer.value:
        return True
    places = max((n.places for n in (gold, answer) if n.places is not None), default=0)
    if gold.places is not None and answer.places is not None:
        places = min(gold.places, answer.places)
    difference = abs(gold.value - answer.value)
    # Six places of a small number may be only one digit.
    return places >= 6 and difference < Fraction(1, 10**places) and 1000 * difference < abs(gold.value)
