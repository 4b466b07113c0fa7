"""Units: which word of an answer is a unit, and which units are the same."""

from __future__ import annotations

import re

from s1.grading.normal import TEXT_CLOSE, TEXT_OPEN

_UNITS = {
    "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters",
    "m": "m meter meters metre metres",
    "km": "km kilometer kilometers kilometre kilometres",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms",
    "lb": "lb lbs pound pounds",
    "dollar": "dollar dollars usd",
    "cent": "cent cents",
    "celsius": "degc celsius",
    "fahrenheit": "degf fahrenheit",
    "degree": "degree degrees deg",
    "radian": "radian radians rad",
    "": "unit units",
    "mi/h": "mph",
    "km/h": "kph kmh",
    "liter": "liter liters litre litres",
}
_UNIT_OF = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()}
_POWER_TAIL = r"\s*(?:\^\s*\{?(?P<power>\d)\}?)?$"
_TEXT_UNIT = re.compile(
    rf"^(?P<core>.*[\d}})\]%a-zA-Z])\s*{TEXT_OPEN}(?P<words>[^{TEXT_CLOSE}]*){TEXT_CLOSE}{_POWER_TAIL}"
)
_BARE_UNIT = re.compile(
    r"^(?P<core>.*[\d})])(?P<space>\s*)"
    rf"(?P<words>(?:sq(?:uare)?\.? |cubic )?[A-Za-z]+(?:\s*(?:/|per)\s*[A-Za-z]+| [a-z]+){{0,2}}){_POWER_TAIL}"
)
_COUNTED = re.compile(r"[a-z]{3,}(?: [a-z]{2,}){0,2}")
_NO_UNITS = frozenset(
    "and or of over plus minus times mod base squared cubed factorial choose hundred hundreds thousand million "
    "billion trillion dozen half halves third thirds quarter quarters pair pairs more less than sin cos tan log "
    "percent pct percentage unknown not never none pi sqrt infinity".split()
)
"""Words after a number that change its value or meaning, so that they do not name what is counted."""
_AREA = re.compile(r"^(sq(?:uare)?\.?|cubic)\s+")


def split_unit(text: str) -> tuple[str, str]:
    """A cleaned answer and its unit: ("10", "cm") for `10\\text{ cm}`, ("5", "m/s"), ("9", "cm^2").

    The unit is "" if there is none or it is unknown. Any word of `\\text{...}` after a number is a
    unit; of bare words, only those of a short list.
    """
    marked = _TEXT_UNIT.match(text)
    match = marked or _BARE_UNIT.match(text)
    if match is None:
        return text, ""
    core = match["core"].rstrip()
    words = match["words"].strip().lower().rstrip(".")
    power = match["power"] or ""
    if area := _AREA.match(words):
        words, power = words[area.end() :], "3" if area[1] == "cubic" else "2"
    parts = [part for part in re.split(r"\s*(?:/|\bper\b)\s*", words) if part]
    first = parts[0].split()[0] if parts else ""
    if marked:
        is_unit = words not in ("and", "or", "") and (
            core[-1] in "})]%" or core[-1].isdigit() or first in _UNIT_OF
        )
    else:
        # 5m and 3s^2 may be products: a single letter is a unit only after a space, or as m^2 after a number.
        measured = power in ("2", "3") and first == "m" and re.fullmatch(r"[\d.,]+", core)
        is_unit = first in _UNIT_OF and (len(first) > 1 or bool(match["space"]) or bool(measured))
        if not is_unit and match["space"] and re.fullmatch(r"-?[\d.,/]+", core):
            is_unit = bool(_COUNTED.fullmatch(words)) and not _NO_UNITS & set(words.split())
    if not is_unit:
        return text, ""
    known = [_UNIT_OF.get(part, "") for part in parts]
    return core, "/".join(known) + (f"^{power}" if power else "") if all(known) and known else ""
