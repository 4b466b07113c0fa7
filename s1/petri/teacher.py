"""The teacher: a program that writes traces, and the pool of traces for curation.

A trace is a list of attempts joined by " . Wait , ". Each attempt ends in an answer: `so X` (committed) or
`maybe X` (a guess among the untried candidates). A calculation begins with a terse draft, which is often
wrong; the careful pass follows, then `nothing new`. A search tries one block of candidates per attempt, says
how many are done, and usually gives up after the second block. When it stops is drawn from `Patience`, the
built-in mechanism that makes a Wait useful; docs/petri.md describes its consequences.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from s1.petri.tasks import Calculation, Problem, Search, make_problem

JOIN = " . Wait , "
BLOCK = 3
"""Candidates that a search tries before it may give up."""


@dataclass(frozen=True)
class Patience:
    """Chance to stop after an attempt (a hazard rate), and the share of wrong lines."""

    misses: tuple[float, ...] = (0.05, 0.72, 0.55, 0.50)
    """After the first, second, third and every later block without a hit. Chosen so that the greedy choice is
    clear: go on after one block, stop after two."""
    draft_easy: float = 0.50
    """After the draft of a calculation of difficulty 1 or 2."""
    draft: float = 0.08
    repeats: tuple[float, ...] = (0.75, 0.21, 0.02, 0.008, 0.006, 0.004, 0.002)
    """Chance of saying `nothing new` 0, 1, 2, ... times after a hit or a careful pass. The few long rows show
    the model what to do when it is told to wait again and again."""
    slip: float = 0.02
    """Chance that a line of the careful pass or of a search has a wrong result."""
    draft_slip: float = 0.20


def write_trace(problem: Problem, rng: random.Random, patience: Patience) -> tuple[str, str]:
    """A trace of the teacher for one problem, in words, and the answer that it states."""
    if isinstance(problem, Search):
        attempts, answer = _search(problem, rng, patience)
    else:
        attempts, answer = _calculate(problem, rng, patience)
    return JOIN.join(attempts) + " .", answer


def _search(problem: Search, rng: random.Random, patience: Patience) -> tuple[list[str], str]:
    attempts: list[str] = []
    place, blocks, answer = 0, 0, ""
    while place < problem.space:
        lines: list[str] = []
        blocks += 1
        for i in range(place, min(place + BLOCK, problem.space)):
            text, looks_right = problem.line(i, _slip(rng, patience.slip))
            lines.append(text)
            place = i + 1
            if looks_right:
                answer = problem.show(i)
                attempts.append(f"{' '.join(lines)} so {answer}")
                return attempts + _nothing_new(answer, rng, patience), answer
        untried = range(place, problem.space)
        answer = problem.show(rng.choice(untried) if untried else rng.randrange(problem.space))
        attempts.append(f"{' '.join(lines)} done {place} maybe {answer}")
        if rng.random() < patience.misses[min(blocks, len(patience.misses)) - 1]:
            return attempts, answer
    return [*attempts, f"nothing new maybe {answer}"], answer


def _calculate(problem: Calculation, rng: random.Random, patience: Patience) -> tuple[list[str], str]:
    drafted, answer = draft(problem, rng, patience.draft_slip)
    if rng.random() < (patience.draft_easy if problem.difficulty <= 2 else patience.draft):
        return [drafted], answer
    worked, answer = careful(problem, rng, patience.slip)
    return [drafted, f"slowly {worked} so {answer}", *_nothing_new(answer, rng, patience)], answer


def _nothing_new(answer: str, rng: random.Random, patience: Patience) -> list[str]:
    """Attempts after the answer is worked out: the same answer again."""
    times = rng.choices(range(len(patience.repeats)), patience.repeats)[0]
    return [f"nothing new so {answer}"] * times


def careful(problem: Calculation, rng: random.Random, slip: float) -> tuple[str, str]:
    """The start as given in the question and every step; and the result."""
    lines, state = [problem.given] if problem.given else [], problem.start
    for i in range(problem.steps):
        text, state = problem.line(i, state, _slip(rng, slip))
        lines.append(text)
    return " ; ".join(lines), problem.show(state)


def draft(problem: Calculation, rng: random.Random, slip: float) -> tuple[str, str]:
    """A terse first try that takes two steps at a time or states the result at once; and the result."""
    state, shown = problem.start, []
    for i in range(problem.steps):
        _, state = problem.line(i, state, _slip(rng, slip / 2))
        if i % 2 and problem.drafts:
            shown.append(problem.show(state))
    answer = problem.show(state)
    return " ".join(["quick", *(f"{s} >" for s in shown[:-1]), f"so {answer}"]), answer


def _slip(rng: random.Random, share: float) -> int:
    return rng.choice((-2, -1, 1, 2)) if rng.random() < share else 0


# --- the pool -------------------------------------------------------------------------------------

SKEW = {"chain": 10, "clock": 10, "poly": 8, "route": 4, "tally": 9, "congruence": 1.6, "power": 1.6,
        "square": 1.8, "remainders": 1.8, "pick": 1.6}  # fmt: skip
"""Weights of the families in the harder part of the pool, in which searches are rare."""
TRIVIAL = ("chain", "clock", "route", "tally")
"""Families of the trivial questions (difficulty 1 and 2), which are 40 % of the pool."""


def make_pool(n: int, seed: int) -> list[dict[str, Any]]:
    """`n` rows with distinct training questions and the flaws of a real pool.

    40 % are trivial; the rest is skewed over the families. About 7 % of the traces are cut, 7 % garbled, 8 %
    sloppy (many wrong lines) and 3 % missing. The field `flaw` says which, for the audit of curation only:
    curation never reads it.
    """
    rng = random.Random(f"pool/{seed}")
    rows: dict[str, dict[str, Any]] = {}
    while len(rows) < n:
        if len(rows) < 0.4 * n:
            family, difficulty = rng.choice(TRIVIAL), rng.randint(1, 2)
        else:
            family, difficulty = rng.choices(list(SKEW), list(SKEW.values()))[0], rng.randint(1, 10)
        problem = make_problem(rng, family, difficulty, "train")
        if problem.question in rows:
            continue
        flaw = rng.choices(("", "cut", "garbled", "sloppy", "missing"), (75, 7, 7, 8, 3))[0]
        written, answer = write_trace(problem, rng, Patience(slip=0.3) if flaw == "sloppy" else Patience())
        thinking: str | None = written
        words = written.split()
        if flaw == "cut":
            thinking = " ".join(words[: rng.randint(1, max(1, len(words) - 2))])
        elif flaw == "garbled":
            at = rng.randrange(len(words))
            thinking = " ".join(words[:at] + [rng.choice(words)] * rng.randint(6, 40) + words[at:])
        elif flaw == "missing":
            thinking = None
        rows[problem.question] = {
            "question": problem.question,
            "answer": problem.answer,
            "source": f"petri/{family}",
            "domain": f"{family} {(difficulty + 1) // 2}",
            "difficulty": difficulty,
            "thinking": thinking,
            "attempt": answer if thinking else None,
            "correct": answer == problem.answer,
            "flaw": flaw,
        }
    return list(rows.values())
