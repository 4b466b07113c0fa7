"""The answer that a text commits to.

In order: the content of `<answer>` tags, the last box, the last cue ("Answer:", "the answer is", "####",
a JSON field "answer", and the like in other languages), and, if the text was not cut off, the last formula,
number, letter or line. In choice questions a stated letter goes before a boxed formula. The `official`
profile reproduces the extraction of the authors' evaluation, without its judge.
"""

from __future__ import annotations

import json
import re

from s1.errors import BadConfig
from s1.grading.equivalence import check_kind, letters
from s1.grading.languages import FOREIGN_CUE, FOREIGN_END, FOREIGN_LETTER, OPTION
from s1.grading.normal import as_text, clean, closing, number

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*")
_CUE = re.compile(
    r"(?:\banswer(?:\s+(?:is|will be|would be)\b\s*:?|\s*\*{0,2}\s*:|\s*\*{0,2}\s*=)|####)\s*\*{0,2}"
    r"|\bfinal answer\b\*{0,2}\s*(?=\n)"
    r"|(?:^[*#>_ ]{0,8}|\b(?:final|correct) )answer\b\*{0,2}\s+(?:-\s|[–—])\s*",
    re.I | re.M,
)
_TAGS = re.compile(r"<(final[-_ ]?answer|answer)(?:\s[^<>]*)?>(.*?)</\1\s*>", re.I | re.S)
_OPEN_TAG = re.compile(r"^[ \t]*<(?:final[-_ ]?)?answer(?:\s[^<>]*)?>\s*([^\n<]+)$", re.I | re.M)
_FIELD = re.compile(
    r"""["'](?:final|(?:(?:final|correct|selected|chosen|predicted)?[_ ]?(?:answer|choice|option|result)"""
    r"""(?:[_ ](?:letter|choice|option))?))["']\s*:\s*"""
    r"""("(?:[^"\\\n]|\\.)*"|'[^'\n]*'|-?[\d.]+(?:e[-+]?\d+)?|true|false|\[[^\[\]\n]*\])""",
    re.I,
)
_PLACEHOLDER = re.compile(
    r"\s*(?:\.\.\.|…|\\[lc]?dots|\\[,;:! ]|\?+|_+"
    r"|(?:\\text\{)?\s*[<\[]?(?:your |the |final )*answer(?: here)?[>\]]?\s*\}?)\s*",
    re.I,
)
_BARE_BOX = re.compile(
    r"[-+−]?[\d\\.√(][^\s$]*|[A-Za-z](?=[\s.,;:]*(?:\$|$)|[^\s\w$]*\\)[^\s$]*|[A-Za-z][^\sA-Za-z$][^\s$]*"
)
_CORRECTED = re.compile(
    r"\b(?:but|no|not|wrong|wait|actually|instead|or|so|then|hence|thus|therefore|rather|mean|giv(?:es?|ing)|get|"
    r"finally|"
    r"becomes|simplif\w+|"
    r"substitut\w+|correct\w*|check|recheck|mistake|answer|implies)\b|=>|\\(?:implies|Rightarrow|text\{ ?or)"
    r"|[.!?]\s|\n\s*\n",
    re.I,
)
_GAP = r"(?:[\s$,;]|\\(?:q?quad|[,; ]))*"
_JOINED = re.compile(
    rf"{_GAP}(?:\\\)|\\\])?{_GAP}(?:and|or|\\(?:text|mbox)\s*\{{\s*(?:and|or)\s*\}})?{_GAP}"
    rf"(?:\\\(|\\\[)?{_GAP}(?:[A-Za-z](?:_\w)?\s*=\s*)?{_GAP}"
)
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.S)
_NUMBER = re.compile(
    r"(?<![A-Za-zÀ-ɏ0-9_.])[-−]?\\?\$?(?:\\[dt]?frac\{[^{}]+\}\{[^{}]+\}|\d[\d,]*(?:\.\d+)?(?:/\d+)?|\.\d+)(?:\s*\\?%)?"
)
_SURD = re.compile(
    r"(?<![\w√∛∜¼-¾⅐-⅞π().^²³/])[-−]?[\d√∛∜¼-¾⅐-⅞π()./^²³]+(?:\s?[-+−*/×·]?\s?[\d√∛∜¼-¾⅐-⅞π()./^²³]+)*"
)
"""A run of plain numbers, roots and fractions of one character: 2√13, (1 + √5)/2, 3½."""
_REASON = re.compile(r",?\s+(?:because|since)\s|,\s+(?:so|as|which|where|and\s+(?:so|we|this|it))\s")
_ADVERB = re.compile(
    r"^(?:(?:therefore|thus|then|hence|simply|just|exactly|approximately|about|indeed|clearly|equal to|given by)"
    r"\b,?\s*)+",
    re.I,
)
# These limits keep the time linear in the length of the text. Answers are at its end.
_LAST_BOXES = 20
_LAST_CUES = 20
_TAIL = 4000
_TAGGED = 20_000
_CHATTER = re.compile(r"\s*\.?\s*I hope (?:it|this) is correct.*", re.I | re.S)


def extract_answer(
    text: object, kind: str = "math", *, profile: str = "strict", weak: bool = True
) -> str | None:
    """The answer that `text` gives, as written, or None if it gives none (as for None and empty text).

    `kind`: "math" (any expression), "integer", "choice" (one or several letters, "AC"), "text", or
    "exact" (everything after the cue, spaces collapsed). With `weak` false only a box or a cue
    counts, because the last number of a text that was cut off is not an answer.
    Raises BadConfig for an unknown kind or profile, BadInput if `text` is not an answer's type.

    >>> extract_answer("So $x = \\\\boxed{\\\\frac{1}{2}}$.")
    '\\\\frac{1}{2}'
    >>> extract_answer("The correct option is (B).", "choice"), extract_answer("First 3, then 8.")
    ('B', '8')
    """
    text = as_text(text)
    check_kind(kind)
    if profile == "official":
        return _official(text, kind)
    if profile != "strict":
        raise BadConfig(f"Unknown profile {profile!r}.", "Use strict or official.")
    text = _after_thinking(text)
    if kind == "exact":
        return _exact(text, weak)
    if (tagged := _tagged(text, weak)) is not None:
        text = tagged
    committed, complete = _last_box(text)
    if kind == "choice" and committed is not None and not re.fullmatch("[A-J]+", letters(committed)):
        # A box with a formula: the letter that is stated elsewhere counts.
        stated = _last_cue(_BOX.sub(" ", text), kind) if _last_cue(text, kind) else tagged
        outside = text.replace(committed, " ")
        return (
            (stated and _choice("", stated, False))
            or _choice(outside, None, weak)
            or _choice("", committed, weak)
        )
    if committed is None:
        committed = _last_cue(text, kind)
    if committed is None and tagged is not None:
        line = " ".join(tagged.split())
        committed = line if kind in ("text", "choice") else _tidy(line)
    if kind == "choice":
        return _choice(text, committed, weak)
    if committed is not None:
        return committed
    if not weak or not complete:
        return None
    if kind == "text":
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1].strip("*. ") or None if lines else None
    return _last_value(text[-_TAIL:])


def _tagged(text: str, weak: bool) -> str | None:
    """The content of the last `<answer>` tags. A tag that stays open counts if the text was not cut off."""
    contents = [m[2] for m in _TAGS.finditer(text[-_TAGGED:])] or (
        [m[1] for m in _OPEN_TAG.finditer(text)] if weak else []
    )
    contents = [re.sub(r"<(b|strong|em|i|p)>(.*?)</\1>", r"\2", c, flags=re.I | re.S) for c in contents]
    return next((c.strip() for c in reversed(contents) if c.strip() and not _PLACEHOLDER.fullmatch(c)), None)


def _field(match: re.Match[str]) -> str:
    """The value of a field "answer" of JSON. LaTeX whose backslashes were not doubled is kept as written."""
    value = match[1]
    if value[0] == '"':
        try:
            decoded = str(json.loads(value))
        except ValueError:
            decoded = "\0"
        return decoded if decoded.isprintable() else value[1:-1]
    return re.sub(r"""["']""", "", value.strip("[]"))


def _after_thinking(text: str) -> str:
    for mark in ("<|im_start|>answer", "</think>"):
        if mark in text:
            text = text.rsplit(mark, 1)[1]
    # Some models write the next turn as well.
    own = re.split(r"<\|im_start\|>(?:user|system)", text, maxsplit=1)[0]
    text = own if own.strip() else text
    return text.replace("<|im_end|>", " ").replace("<|endoftext|>", " ").strip()


def _last_box(text: str) -> tuple[str | None, bool]:
    """The content of the last box, and whether every box of the text is closed.

    Boxes of one sentence with "and" or a comma between them are one answer, unless its words say that the
    later one follows from the earlier or corrects it. With "or" they are one answer too, unless they are the
    same number in two forms.
    """
    boxes: list[tuple[int, int, str]] = []
    complete = True
    for match in list(_BOX.finditer(text))[-_LAST_BOXES:]:
        if text[match.end() : match.end() + 1] == "{":
            end = closing(text, match.end())
            if end < 0:
                line = re.match(r"\{([^\n$]*?)\s*(?:\$|\\\)|\\\]|\n)", text[match.end() :])
                if line is None:
                    complete = False
                    continue
                boxes.append((match.start(), match.end() + line.end(), line[1]))
            else:
                boxes.append((match.start(), end + 1, text[match.end() + 1 : end]))
        elif bare := _BARE_BOX.match(text[match.end() : match.end() + 200]):
            boxes.append((match.start(), match.end() + bare.end(), bare[0].rstrip(".,")))
    boxes = [box for box in boxes if box[2].strip() and not _PLACEHOLDER.fullmatch(box[2])]
    if not boxes:
        return None, complete
    answer, alternatives = [boxes[-1]], False
    for box in reversed(boxes[:-1]):
        between = text[box[1] : answer[0][0]]
        joined = not between or re.search(r"and|[,;&]|\bor\b", between)
        if not joined or len(between) > 80:
            break
        if not (len(between) <= 40 and _JOINED.fullmatch(between)) and _CORRECTED.search(between):
            break
        alternatives = alternatives or re.search(r"\bor\b", between) is not None
        answer.insert(0, box)
    contents = list(dict.fromkeys(box[2].strip() for box in answer))
    values = [number(clean(content)) for content in contents] if alternatives else []
    if None in values:
        return " or ".join(contents), complete
    if len({value.value for value in values if value}) == 1:
        return contents[-1], complete
    return ", ".join(contents), complete


def _last_cue(text: str, kind: str) -> str | None:
    found = [*_CUE.finditer(text), *_FIELD.finditer(text), *FOREIGN_CUE.finditer(text)]
    for match in sorted(found, key=lambda m: m.end())[: -_LAST_CUES - 1 : -1]:
        if match.re is _FIELD:
            return _field(match).strip() or None
        rest = _CHATTER.sub("", text[match.end() : match.end() + _TAIL]).strip()
        if not rest.strip("*:.$ "):
            continue
        block = re.match(r"(?:\\\[|\$\$)(.+?)(?:\\\]|\$\$)", rest, re.S)
        line = block[1] if block else rest.splitlines()[0]
        line = line.strip().strip("*").strip()
        if match.re is FOREIGN_CUE:
            line = FOREIGN_END.split(line)[0].strip(" *.")
            line = re.sub(r"^(?:la|il|el|a|o)\s+(?=[A-J]$)", "", line)
            if not line:
                continue
            if kind in ("math", "integer") and not _FORMULA.search(line) and FOREIGN_LETTER.search(line):
                line = _last_number(line) or line
        return line.strip("*. \"'") if kind == "text" else _tidy(line)
    return None


def _tidy(line: str) -> str | None:
    """The answer inside the rest of a line: its formula, what follows "is", or its number."""
    line = re.split(r"(?<=[^\d\s])\.\s|(?<=\d)\.\s(?=[A-Z])", line)[0]
    line = _REASON.split(line)[0]
    after = re.split(r"\s(?:is|are|equals)\s|:\s", line)[-1].strip()
    formulas = [_content(match) for match in _FORMULA.finditer(after)]
    if formulas:
        bare = _FORMULA.sub(" ", after)
        if set(re.findall(r"[A-Za-z]{2,}", bare)) <= {"and", "or"} and not re.search(r"\d", bare):
            return ", ".join(formulas)
        return formulas[-1] + (" %" if re.search(r"\$\s*(?:\\?%|percent)", after) else "")
    after = _ADVERB.sub("", after.rstrip(".").strip("*` \"'"))
    if len(re.findall(r"[A-Za-z]{2,}", after)) <= 3 or "\\" in after:
        return after or None
    return _last_number(after) or after or None


def _last_number(text: str) -> str | None:
    """The last number, with the roots and fractions of Unicode around it."""
    numbers = [(m.end(), _trim_number(m[0])) for m in _NUMBER.finditer(text)]
    numbers += [(m.end() + 1, surd) for m in _SURD.finditer(text) if (surd := _surd(m[0]))]
    return max(numbers)[1] if numbers else None


def _surd(run: str) -> str | None:
    run = run.rstrip("./ ")
    run = run[1:] if run.startswith("(") and run.count("(") > run.count(")") else run
    run = run[:-1] if run.endswith(")") and run.count(")") > run.count("(") else run
    return run if re.search("[√∛∜¼-¾⅐-⅞]", run) and re.search("[\\d¼-¾⅐-⅞]", run) else None


def _last_value(text: str) -> str | None:
    """The last formula or number, whichever ends later."""
    text = re.sub(r"\\(?:boxed|fbox)\s*\{\s*\}", "", text).replace("$$", "")
    best: tuple[int, str] | None = None
    for match in _FORMULA.finditer(text):
        best = (match.end(), _content(match).rstrip("."))
    for match in _NUMBER.finditer(text):
        if best is None or match.end() > best[0]:
            best = (match.end(), _trim_number(match[0]))
    for match in _SURD.finditer(text):
        if (surd := _surd(match[0])) and (best is None or match.end() + 1 >= best[0]):
            best = (match.end(), surd)
    return best[1] if best else None


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _trim_number(text: str) -> str:
    return text.rstrip(",. ").replace("−", "-")


def _choice(text: str, committed: str | None, weak: bool) -> str | None:
    if committed is None and weak and (found := _option_line(text)):
        return found
    if committed is not None:
        committed = _REASON.split(committed)[0]
        if found := letters(committed):
            return found
        for pattern in (r"\(([A-Z])\)", r"(?:^|[\s*])([A-Z])[).:*]", r"^([A-Z])\b", r"\b([B-HJ-Z])\b"):
            if match := re.search(pattern, committed):
                return match[1]
    # A and I are also words, so as letters they must not come before another word.
    letter = r"\**\(?(?:([B-HJ-Z])(?![A-Za-z0-9_])|([AI])(?![A-Za-z0-9_])(?!\s+[a-z]))"
    patterns = [rf"(?i:choice|answer|{OPTION})\s*(?i:is|は|是)?\s*:?\s*{letter}"]
    if weak:
        patterns += [
            r"\(([A-J])\)|\*\*([A-J])[.):]?\*\*|^\s*\(?([A-J])[.):]?\s*$",
            r"^\s*\(?([A-J])[.):]\s",
            rf"(?i:\b(?:it['’]s|it is)\s+){letter}"
            r"|(?i:\b(?:choose|pick|select|go with|only|leaves|leaving)\s+)([A-J])\b"
            r"|\b([A-J])\s+(?:is|must be)\s+(?:the\s+)?(?:right|correct|best|answer)\b",
        ]
    for pattern in patterns:
        if found_all := list(re.finditer(pattern, text, re.M)):
            return next(g for g in found_all[-1].groups() if g)
    return None


def _option_line(text: str) -> str | None:
    """The letter if the whole text is one option: "c)", "$C$", "**C) Iron**"; A and I are also words."""
    text = text.strip("*$ \n").replace("。", ". ")
    if len(text) > 200 or "\n" in text or re.match(r"[AaIi]\s", text):
        return None
    if len(re.findall(r"\([A-J]\)", text)) > 1:
        return None
    return letters(text) if re.match(r"\(?[A-Za-z](?:[).:\s]|$)", text) else None


def _exact(text: str, weak: bool) -> str | None:
    cues = list(re.finditer(r"answer\s*:", text, re.I))
    if not cues and not weak:
        return None
    rest = text[cues[-1].end() :] if cues else text
    return " ".join(rest.split()) or None


def _official(text: str, kind: str) -> str | None:
    """The authors' extraction. Without a box or cue it is the whole text, and "A" for letters."""
    if "<|im_start|>answer\n" in text:
        text = text.rsplit("<|im_start|>answer\n", 1)[1]
    elif "<|im_start|>" in text:
        text = "\n".join(text.rsplit("<|im_start|>", 1)[1].split("\n")[1:])
    found = text
    box = text.rfind("\\boxed{")
    if box < 0:
        box = text.rfind("\\fbox{")  # Differs: the authors' code crashes on it
    if "\\boxed " in text:
        found = text.rsplit("\\boxed ", 1)[1].split("$")[0]
    elif box >= 0 and (end := closing(text, text.index("{", box))) > 0:
        found = text[text.index("{", box) + 1 : end]
    elif match := re.search(r"answer\s*:\s*(.*)", text, re.I | re.S):
        found = match[1]
    if kind == "choice":
        match = re.search(r"\b([A-D])\b", found)
        return match[1] if match else "A"
    return found.strip() or None
