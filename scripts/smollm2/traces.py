"""Reasoning traces from solved arithmetic problems: each step stated, some slips made and corrected.

A trace is a list of pieces. Pieces that hold a slip stay in the text but out of the loss: a model that learns to
write them learns to slip. It learns the correction that follows instead.

    Natalia sold 48/2 = 26 clips in May.                      no loss
    Wait, 48/2 is 24, not 26.
    Natalia sold 48/2 = 24 clips in May.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

CALCULATION = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
NUMBER = re.compile(r"\d+(?:\.\d+)?")
SLIP, LATE_SLIP, RECHECK = 0.25, 0.15, 0.25
"""Shares of the traces with a slip corrected at once, with a slip found at the end, and with a check at the end."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a solution and the calculation in it: "{}" stands for the result."""

    line: str
    expression: str
    value: Fraction

    def text(self, value: Fraction) -> str:
        return self.line.replace("{}", show(value), 1)


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    trained: bool = True


@dataclass(frozen=True, slots=True)
class BuiltTrace:
    thinking: str
    untrained: tuple[tuple[int, int], ...]
    """Spans of `thinking` without loss: first character and the one after the last."""
    kind: str
    """"plain", "slip", "late slip" or "check"."""


def gsm8k_steps(solution: str) -> tuple[list[Step], Fraction] | None:
    """The steps of a GSM8K solution and its answer, or None where the program cannot follow and check them.

    Every line must have one calculation whose stated result is right and appears after it, and the last result must
    be the answer.
    """
    body, marker, stated = solution.rpartition("####")
    answer = number(stated)
    if not marker or answer is None:
        return None
    steps = []
    for line in body.strip().splitlines():
        found = CALCULATION.findall(line)
        if not found:
            return None
        text = line.strip()
        expression, result = found[-1]
        value, said = evaluate(expression), number(result)
        if value is None or value != said:
            return None
        for earlier, earlier_result in found[:-1]:
            if evaluate(earlier) != number(earlier_result):
                return None
        before, mark, after = text.rpartition(f"<<{expression}={result}>>")
        shown = NUMBER.match(after)
        if not mark or shown is None or number(shown.group()) != value:
            return None
        before = CALCULATION.sub("", before)
        line = f"{before}{{}}{after[shown.end() :]}"
        if line.count("{}") != 1 or "<<" in line or len(line) > 240:
            return None
        steps.append(Step(line, expression.replace(" ", ""), value))
    return (steps, answer) if steps and steps[-1].value == answer and len(steps) <= 8 else None


def build_trace(steps: Sequence[Step], answer: Fraction, rng: random.Random) -> BuiltTrace:
    """A trace of these steps, with or without a slip or a check at the end."""
    draw = rng.random()
    late = _late_slip(steps, rng) if draw < LATE_SLIP else None
    if late is not None:
        return _join([*late, _therefore(answer)], "late slip")
    pieces = [Piece(step.text(step.value)) for step in steps]
    if draw < LATE_SLIP + SLIP:
        at = rng.randrange(len(steps))
        step = steps[at]
        wrong = wrong_value(step.value, rng)
        pieces[at : at + 1] = [
            Piece(step.text(wrong), trained=False),
            Piece(f"Wait, {step.expression} is {show(step.value)}, not {show(wrong)}."),
            Piece(step.text(step.value)),
        ]
        return _join([*pieces, _therefore(answer)], "slip")
    pieces.append(_therefore(answer))
    if draw < LATE_SLIP + SLIP + RECHECK:
        pieces.append(Piece(f"Wait, let me check. {_recheck(steps)}"))
        pieces.append(_therefore(answer))
        return _join(pieces, "check")
    return _join(pieces, "plain")


def _late_slip(steps: Sequence[Step], rng: random.Random) -> list[Piece] | None:
    """The solution with a slip carried to the end and then found by a check; None where it changes nothing."""
    at = rng.randrange(len(steps))
    replaced = {steps[at].value: wrong_value(steps[at].value, rng)}
    pieces = [Piece(step.text(step.value)) for step in steps[:at]]
    pieces.append(Piece(steps[at].text(replaced[steps[at].value]), trained=False))
    last = replaced[steps[at].value]
    for step in steps[at + 1 :]:
        line, expression = step.line, step.expression
        for right, wrong in replaced.items():
            number_of = rf"(?<![\d.]){re.escape(show(right))}(?![\d.])"
            line = re.sub(number_of, show(wrong), line)
            expression = re.sub(number_of, show(wrong), expression)
        value = evaluate(expression)
        if value is None or value < 0 or value.denominator not in (1, 2, 4, 5, 10, 20, 25, 50, 100):
            return None
        last = value
        if value != step.value:
            replaced[step.value] = value
        pieces.append(Piece(line.replace("{}", show(value), 1), trained=False))
    if last == steps[-1].value:
        return None
    pieces.append(Piece(f"So the answer is {show(last)}.", trained=False))
    slip = show(replaced[steps[at].value])
    found = f"{steps[at].expression} is {show(steps[at].value)}, not {slip}."
    pieces.append(Piece(f"Wait, let me check. {found}"))
    pieces += [Piece(step.text(step.value)) for step in steps[at:]]
    return pieces


def _recheck(steps: Sequence[Step]) -> str:
    return " ".join(f"{step.expression} = {show(step.value)}." for step in steps)


def _therefore(answer: Fraction) -> Piece:
    return Piece(f"So the answer is {show(answer)}.")


def _join(pieces: Sequence[Piece], kind: str) -> BuiltTrace:
    text, spans = "", []
    for piece in pieces:
        text += "\n" if text else ""
        if not piece.trained:
            spans.append((len(text), len(text) + len(piece.text) + 1))  # with its newline
        text += piece.text
    return BuiltTrace(text, tuple(spans), kind)


def wrong_value(value: Fraction, rng: random.Random) -> Fraction:
    """A result that a careless person might write: off by a little, or with one digit changed."""
    if value.denominator != 1:
        return value + rng.choice((1, -1, 2)) if value > 2 else value + 1
    changes = (1, -1, 2, -2, 10, -10) if abs(value) > 9 else (1, -1, 2, -2)
    return rng.choice([value + change for change in changes if value < 0 or value + change >= 0])


def evaluate(expression: str) -> Fraction | None:
    """The exact value of sums, differences, products, quotients, percentages and brackets; None for anything else."""
    text = expression.replace(" ", "").replace(",", "").replace("x", "*").replace("$", "")
    text = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", text)
    if not re.fullmatch(r"[\d.+\-*/()]+", text) or "**" in text or "//" in text or len(text) > 80:
        return None
    exact = re.sub(r"\d+(?:\.\d+)?|\.\d+", lambda m: f"F('{m.group()}')", text)
    try:
        value = eval(exact, {"__builtins__": {}, "F": Fraction})  # digits, operators and brackets alone
    except (SyntaxError, ZeroDivisionError, TypeError, ValueError):
        return None
    return value if isinstance(value, Fraction) else None


def number(text: str) -> Fraction | None:
    """A stated number, such as "1,200" or "0.25"; None where it is not one."""
    plain = text.strip().replace(",", "").replace("$", "")
    return Fraction(plain) if re.fullmatch(r"-?\d*\.?\d+", plain) else None


def show(value: Fraction) -> str:
    """The number as a person writes it."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{float(value):.4f}".rstrip("0").rstrip(".")
