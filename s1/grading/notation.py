"""Unicode and plain-text notation written as LaTeX: √13, 3½, ln 2, sin(2x), 13th."""

from __future__ import annotations

import re
import unicodedata

_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂ]+")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ]+")
VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞↉"
ROOTS = "√∛∜"
_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}
_MIXED = re.compile(rf"(?:(?<![\d.,])(\d+)\s*)?(?:([{VULGAR}])|([⁰¹²³⁴⁵⁶⁷⁸⁹]+)[⁄/]([₀₁₂₃₄₅₆₇₈₉]+))")
_INDEXED_ROOT = re.compile(r"(?<![\w)}\]])([²³⁴⁵⁶⁷⁸⁹ⁿᵏᵐ]+)√")
_ROOT = re.compile(rf"([{ROOTS}])\s*(\d+(?:\.\d+)?)?")
_FUNCTIONS = {
    "arcsin": "asin arcsin", "arccos": "acos arccos", "arctan": "atan arctan", "arccot": "acot arccot",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot",
    "sec": "sec", "csc": "csc", "ln": "ln", "log": "log", "exp": "exp", "sqrt": "sqrt", "sqrt[3]": "cbrt",
}  # fmt: skip
_OF_LISTS = ("max", "min", "gcd", "lcm", "det")
_COMMAND_OF = {name: f"\\{command}" for command, names in _FUNCTIONS.items() for name in names.split()}
_NAMES = "|".join(f"[{n[0].upper()}{n[0]}]{n[1:]}" for n in sorted(_COMMAND_OF, key=len, reverse=True))
_ARGUMENT = (
    r"(?=\s*(?:[({|\d^_]|\\(?!cdot|times|leq|geq|neq|cup|cap|in\b|\\)|\[\d+\]\s*[({]|(?:"
    + _NAMES
    + r")\s*[(^\d]"
    r"|(?!(?:in|is|of|to|on|or|at|it|no|if|as|by|an|we)\b)[a-zA-Z]{1,2}(?![a-zA-Z])))"
)
_FUNCTION = re.compile(
    rf"(?:\x02\s*(?P<marked>{_NAMES})\s*\x03"
    rf"|(?<![a-zA-Z\\])(?P<before>[b-z]?)(?P<name>{_NAMES})){_ARGUMENT}"
)
_LIST_FUNCTION = re.compile(rf"(?<![a-zA-Z\\])({'|'.join(_OF_LISTS)})(?=\s*\()")
_LOG_BASE = re.compile(r"\\log\s+(2|10)(?=\s*\(|\s+\d)")
_RATIO_OF_LOGS = re.compile(r"(\\(?:ln|log(?:_\{?\w+\}?)?))\s*(\d+)\s*/\s*(?=\\(?:ln|log))")
_ROOT_OF_DIGITS = re.compile(r"(\\sqrt(?:\[3\])?)\s+(\d+(?:\.\d+)?)")
_ABSOLUTE = re.compile(r"(?<![a-zA-Z\\])abs\s*\(([^()|]*)\)")
_ENDING = r"(?:(?<=1)(?<!11)st|(?<=2)(?<!12)nd|(?<=3)(?<!13)rd|(?:(?<=[04-9])|(?<=1[123]))th)"
_ORDINAL = re.compile(
    r"(?<=[\dkn])\s*\^?\s*\{?\s*\x02\s*(?:st|nd|rd|th)\s*\x03\s*\}?"
    rf"|(?:(?<=1)(?<!11)\^\{{st\}}|(?<=2)(?<!12)\^\{{nd\}}|(?<=3)(?<!13)\^\{{rd\}}"
    r"|(?:(?<=[04-9])|(?<=1[123]))\^\{th\})"
    rf"|(?<=\d){_ENDING}$"
)


def without_unicode(text: str) -> str:
    """Superscripts, subscripts, fractions and roots of Unicode as LaTeX, and other characters by NFKC."""
    text = _MIXED.sub(_fraction, text.replace("⅟", "1/").replace("\u0305", "").replace("º", "°"))
    text = _INDEXED_ROOT.sub(lambda m: f"\\sqrt[{_level(m[1])}]√", text)
    text = _RAISED.sub(lambda m: "^{" + _level(m[0]) + "}", text)
    text = _LOWERED.sub(lambda m: "_{" + _level(m[0]) + "}", text)
    text = re.sub("[ℂℕℚℝℤ]", lambda m: f"\\mathbb{{{_level(m[0])}}}", text)
    text = _level(text).replace("\u2044", "/")
    text = _ROOT.sub(lambda m: f"\\sqrt{_INDEX[m[1]]}" + (f"{{{m[2]}}}" if m[2] else " "), text)
    return re.sub(r"\\sqrt(\[\w+\])\\sqrt", r"\\sqrt\1", text)


def _level(text: str) -> str:
    """Raised, lowered and styled characters as plain ones."""
    return unicodedata.normalize("NFKC", text)


def _fraction(match: re.Match[str]) -> str:
    r"""3½ as \frac{7}{2}, so that it is one number wherever it stands."""
    whole, single, above, below = match.groups()
    if single:
        above, below = _level(single).split("\u2044")
    else:
        above, below = _level(above), _level(below)
    if whole and len(whole) > 100:
        return match[0]
    fraction = f"\\frac{{{int(whole or 0) * int(below) + int(above)}}}{{{below}}}"
    return f"{{{fraction}}}" if match.string[: match.start()].endswith("^") else fraction


def with_commands(text: str) -> str:
    r"""`ln 2` as `\ln 2`, `exp(x)` as `\exp (x)`, `log2(3)` as `\log_{2}(3)`, if an argument follows.

    Words of `\text{...}` are marked as `normal.clean` marks them: only a function's name alone is read there.
    """
    text = _FUNCTION.sub(_command, text)
    text = _LIST_FUNCTION.sub(r"\\\1", text)
    text = _LOG_BASE.sub(r"\\log_{\1}", text)
    text = re.sub(r"\\log\s*_\s*(?:e|\{e\})(?![a-z])", r"\\ln ", text)
    text = _RATIO_OF_LOGS.sub(r"\1(\2)/", text)
    text = _ROOT_OF_DIGITS.sub(r"\1{\2}", text)
    return _ABSOLUTE.sub(r"|\1|", text)


def _command(match: re.Match[str]) -> str:
    name = (match["marked"] or match["name"]).lower()
    return (
        (match["before"] or "")
        + _COMMAND_OF[name]
        + ("" if match.string[match.end() : match.end() + 1] == "[" else " ")
    )


def without_ordinals(text: str) -> str:
    r"""`13` of `13th`, `13^{\text{th}}` and the like."""
    return _ORDINAL.sub("", text)
