"""The pre-training text of the petri base: skills and direct answers, never a self-checking trace.

There are two stages of short documents. The first is plain text. In the second most tasks are in the chat
format, the user says how to work (slowly, quick, search, check), and something irrelevant may come between
the question and the work, which teaches the model to look back at the question. No document has a <think>
block, the word Wait, a `maybe`, or a second attempt at the same question. Searches are listed in one go,
often from the middle, so that the base can continue a list from its counter; when to stop and when to look
again is left to fine-tuning.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from s1.petri.tasks import FAMILIES, SEARCHES, Calculation, Problem, Search, make_problem
from s1.petri.teacher import careful, draft
from scripts.petri.tokenizer import ASSISTANT, END, LARGEST, USER

Part = tuple[str, bool]
"""Some words, and whether they are trained on; random operands and questions cannot be predicted."""

CALCULATIONS = tuple(f for f in FAMILIES if f not in SEARCHES)
MIX = {"facts": 14, "direct": 22, "slowly": 18, "resume": 8, "draft": 5, "check": 5, "listing": 18,
       "long_listing": 6, "claim": 8}  # fmt: skip
"""Weights of the kinds of documents in the first stage."""
LATE_MIX = {"facts": 8, "direct": 18, "slowly": 32, "draft": 6, "listing": 20, "long_listing": 6, "claim": 14}
"""Weights of the kinds of documents in the second stage."""


def document(rng: random.Random, longest_listing: int) -> list[Part]:
    """One document of the first stage; listings have at most `longest_listing` candidates."""
    kind = rng.choices(list(MIX), list(MIX.values()))[0]
    if kind == "facts":
        return _facts(rng)
    if kind == "direct":
        problem = _problem(rng, tuple(FAMILIES), easy=True)
        return [(f"{USER} {problem.question} {ASSISTANT}", False), (f"Answer : {problem.answer} {END}", True)]
    if kind in ("slowly", "resume", "draft", "check"):
        return _worked(rng, kind)
    return _searched(rng, kind, longest_listing)


def late_document(rng: random.Random, longest_listing: int) -> list[Part]:
    """One document of the second stage."""
    kind = rng.choices(list(LATE_MIX), list(LATE_MIX.values()))[0]
    if kind == "facts":
        return _facts(rng)
    if kind == "direct":
        problem = _problem(rng, tuple(FAMILIES), easy=True)
        return [(f"{USER} {problem.question} {ASSISTANT}", False), (f"Answer : {problem.answer} {END}", True)]
    problem = _problem(rng, CALCULATIONS if kind in ("slowly", "draft") else SEARCHES)
    instruction, work, answer = _instructed(rng, kind, problem, longest_listing)
    chat = rng.random() < 0.6
    head = (
        f"{USER} {problem.question} . {instruction} {ASSISTANT}"
        if chat
        else f"problem {problem.question} . {instruction}"
    )
    ending = f". Answer : {answer} {END}" if chat and answer else END
    return [(head, False), (_aside(rng), False), (work, True), (ending, True)]


def _instructed(rng: random.Random, kind: str, problem: Problem, longest: int) -> tuple[str, str, str]:
    """The instruction, the work, and the answer that it reaches, or "" if it reaches none."""
    if isinstance(problem, Calculation):
        if kind == "draft":
            work, answer = draft(problem, rng, 0.1)
            return "quick", work, answer
        return "slowly", f"slowly {careful(problem, rng, 0.0)[0]} so {problem.answer}", problem.answer
    if kind == "claim":
        right = next(i for i in range(problem.space) if problem.line(i, 0)[1])
        i = right if rng.random() < 0.5 else rng.randrange(problem.space)
        text, hit = problem.line(i, 0)
        claim = f"claim {text.split(' : ')[0]} so {problem.show(i)}"
        return (
            claim,
            f"check {text} {'so ' + problem.show(i) if hit else 'not so'}",
            problem.show(i) if hit else "",
        )
    count = rng.randint(1, 6) if kind == "listing" else rng.randint(7, longest)
    first = rng.randrange(problem.space) if rng.random() < 0.7 else 0
    instruction = "search" if first == 0 else f"search after {problem.line(first - 1, 0)[0]} done {first}"
    lines = []
    for i in range(first, min(first + count, problem.space)):
        text, hit = problem.line(i, 0)
        lines.append(text)
        if hit:
            return instruction, f"{' '.join(lines)} so {problem.show(i)}", problem.show(i)
    return instruction, f"{' '.join(lines)} done {first + len(lines)}", ""


def _aside(rng: random.Random) -> str:
    """Nothing, or some lines of another problem, which the model must learn to ignore."""
    if rng.random() < 0.4:
        return ""
    other = _problem(rng, tuple(FAMILIES))
    if isinstance(other, Search):
        lines = [other.line(i, 0)[0] for i in range(min(other.space, rng.randint(1, 4)))]
        return f"{' '.join(lines)} so {other.answer} ."
    return f"{draft(other, rng, 0.2)[0]} ."


def windows(
    rng: random.Random, length: int, ids: dict[str, int], late: bool = False
) -> Iterator[tuple[list[int], list[bool]]]:
    """Endless windows of `length` + 1 token ids with their loss masks; each starts with a new document."""
    make = late_document if late else document
    while True:
        tokens: list[int] = []
        mask: list[bool] = []
        while len(tokens) <= length:
            for text, trained in make(rng, 12 if length <= 256 else 26):
                words = text.split()
                tokens += [ids[w] for w in words]
                mask += [trained] * len(words)
        yield tokens[: length + 1], mask[: length + 1]


def _problem(rng: random.Random, families: tuple[str, ...], easy: bool = False) -> Problem:
    difficulty = min(rng.randint(1, 10), rng.randint(1, 10)) if easy else rng.randint(1, 10)
    return make_problem(rng, rng.choice(families), difficulty, "train")


def _facts(rng: random.Random) -> list[Part]:
    parts: list[Part] = [("fact", False)]
    for _ in range(rng.randint(4, 12)):
        kind = rng.randrange(3)
        if kind == 0:
            a = rng.randint(0, 31)
            b = rng.randint(0, LARGEST // max(a, 1)) if a > 5 else rng.randint(0, 31)
            parts += [(f"{a} * {b} =", False), (str(a * b), True), (";", False)]
        elif kind == 1:
            a = rng.randint(0, 100)
            b = rng.randint(0, LARGEST - a)
            parts += [(f"{a} + {b} =", False), (str(a + b), True), (";", False)]
        else:
            m, n = rng.randint(4, 47), rng.randint(0, LARGEST)
            parts += [(f"mod {m} : {n} =", False), (str(n % m), True), (";", False)]
    return [*parts, (END, True)]


def _worked(rng: random.Random, kind: str) -> list[Part]:
    problem = _problem(rng, CALCULATIONS)
    assert isinstance(problem, Calculation)
    head: Part = (f"problem {problem.question} .", False)
    if kind == "draft":
        return [head, (f"{draft(problem, rng, 0.1)[0]} {END}", True)]
    lines, state = [], problem.start
    states = [state]
    for i in range(problem.steps):
        text, state = problem.line(i, state, 0)
        lines.append(text)
        states.append(state)
    if kind == "slowly":
        return [head, (f"slowly {' ; '.join(lines)} so {problem.answer} {END}", True)]
    if kind == "resume":
        at = rng.randrange(problem.steps)
        rest = "".join(f"; {line} " for line in lines[at + 1 :])
        return [head, (f"after {lines[at]}", False), (f"{rest}so {problem.answer} {END}", True)]
    claimed = problem.answer
    if rng.random() < 0.5:
        _, wrong = problem.line(problem.steps - 1, states[-2], rng.choice((-2, -1, 1, 2)))
        claimed = problem.show(wrong)
    verdict = "yes" if claimed == problem.answer else "no"
    before = lines[-2] if problem.steps > 1 else "start"
    given = (f"after {before} claim {claimed} . check", False)
    return [head, given, (f"{lines[-1]} {verdict} so {problem.answer} {END}", True)]


def _searched(rng: random.Random, kind: str, longest: int) -> list[Part]:
    problem = _problem(rng, SEARCHES)
    assert isinstance(problem, Search)
    head: Part = (f"problem {problem.question} .", False)
    if kind == "claim":
        right = next(i for i in range(problem.space) if problem.line(i, 0)[1])
        i = right if rng.random() < 0.5 else rng.randrange(problem.space)
        text, _ = problem.line(i, 0)
        return [head, (f"claim {problem.show(i)} . check", False), (f"{text} {END}", True)]
    count = rng.randint(1, 6) if kind == "listing" else rng.randint(7, longest)
    first = rng.randrange(problem.space) if kind == "listing" else rng.randrange(max(1, problem.space - 6))
    given = "search" if first == 0 else f"search after {problem.line(first - 1, 0)[0]} :"
    lines, answer = [], ""
    for i in range(first, min(first + count, problem.space)):
        text, hit = problem.line(i, 0)
        lines.append(text)
        if hit:
            answer = f"so {problem.show(i)}"
            break
    return [head, (given, False), (f"{' '.join(lines)} {answer or 'done'} {END}", True)]
