"""Right or wrong: our grader where symbols decide, a model's Yes or No where they cannot.

The protocol is the paper's (section 2.2; `s1.grading.judge`). Differs: the judge is asked only where the grader
cannot decide, and at most three times; an attempt without a readable verdict stays ungraded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

from s1.clients.call_cache import CallCache
from s1.clients.map_calls import Caller, Watch, map_readings, no_watch
from s1.grading import equivalent, extract_answer
from s1.grading.judge import JUDGE_SYSTEM, Attempt, judge_text, read_verdict
from s1.grading.normal import clean, number

SHORT = 120
"""Longest reference, in characters, that is itself an answer; a longer text is a solution or a proof."""
LETTERS = re.compile(r"^\(?[A-H](?:[\s,]*[A-H])*\)?\.?$")


class Judged(NamedTuple):
    """Right, wrong or undecided (None), and who decided: "symbolic", "judge" or "nobody"."""

    correct: bool | None
    by: str


def short_answer(reference: str) -> str | None:
    """The answer in a reference: what is boxed, or all of it where it is short; None in a proof or essay."""
    reference = reference.strip()
    if "\\boxed" in reference:
        return extract_answer(reference, weak=False)
    return reference if reference and len(reference) <= SHORT and "\n" not in reference else None


def by_symbols(attempt: Attempt) -> bool | None:
    """Our grader's verdict; None where it cannot decide.

    Equal is right. Different is wrong only between numbers or choice letters: two expressions or texts that do not
    match may still mean the same.
    """
    gold = short_answer(attempt.reference or "")
    if gold is None:
        return None
    kind = "choice" if LETTERS.match(gold) else "math"
    found = extract_answer(attempt.text, kind, weak=not attempt.cut)
    plain = kind == "choice" or number(clean(gold)) is not None
    if found is None:
        return False if plain or attempt.cut or not attempt.text.strip() else None
    if equivalent(gold, found, kind):
        return True
    return False if plain and (kind == "choice" or number(clean(found)) is not None) else None


async def judge_all(
    attempts: Mapping[str, Attempt], judge: Caller | None, cache: CallCache, *, progress: Watch = no_watch
) -> dict[str, Judged]:
    """A verdict for each attempt that has a reference; the others stay ungraded."""
    found: dict[str, Judged] = {}
    undecided: dict[str, Attempt] = {}
    for name, attempt in attempts.items():
        has_reference = bool((attempt.reference or "").strip())
        verdict = await asyncio.to_thread(by_symbols, attempt) if has_reference else None
        found[name] = Judged(verdict, "nobody" if verdict is None else "symbolic")
        if has_reference and verdict is None:
            undecided[name] = attempt
    if judge is not None and undecided:
        verdicts = await ask_judge(undecided, judge, cache, progress=progress)
        found |= {name: Judged(verdict, "judge") for name, verdict in verdicts.items()}
    return found


async def ask_judge(
    attempts: Mapping[str, Attempt], judge: Caller, cache: CallCache, *, progress: Watch = no_watch
) -> dict[str, bool]:
    """The judge's verdict on each attempt, from the call cache where it is there; attempts without one are left out."""
    calls = {name: judge.request(judge_text(a), system=JUDGE_SYSTEM) for name, a in attempts.items()}
    return await map_readings(calls, read_verdict, judge, cache, progress=progress)
