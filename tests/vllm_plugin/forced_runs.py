"""Questions, policies and how to run them on an engine: in one request where the plug-in is, or from outside."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from s1.budget import Forcing
from s1.drive import drive
from s1.formats import FORMATS, ThinkingFormat
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Engine, Generation

PETRI = FORMATS["petri"]
WORD = ThinkingFormat("word", "<think>", " so", (" so",), " Answer :", newline=False)
LINED = replace(PETRI, name="lined", newline=True)
QUESTIONS = (
    "start 6 mod 13 ; 1 : * 8 ; 2 : * 4",
    "clock 6 h 10 ; 1 : + 1 h 5 ; 2 : + 2 h 40 ; 3 : + 5 h 35",
    "poly at 5 mod 11 ; 0 : 1 ; 1 : 1 ; 2 : 10 ; 3 : 2 ; 4 : 4 ; 5 : 9",
)
SHORT = "poly at 5 mod 11 ; 0 : 1 ; 1 : 1"
"""The model thinks about it for a dozen tokens and ends its turn without a delimiter."""
POLICIES = {
    "natural": (PETRI, BudgetPolicy(max_thinking=60, max_answer=12)),
    "no thinking": (PETRI, BudgetPolicy(max_thinking=0, max_answer=12)),
    "one token": (PETRI, BudgetPolicy(max_thinking=1, max_answer=12)),
    "waits": (PETRI, BudgetPolicy(max_thinking=70, waits=4, max_answer=12)),
    "a cycle": (PETRI, BudgetPolicy(max_thinking=70, waits=3, wait=(" Wait", " maybe"), max_answer=12)),
    "a written wait": (PETRI, BudgetPolicy(max_thinking=70, waits=3, wait=(" so",), max_answer=12)),
    "silent waits": (PETRI, BudgetPolicy(max_thinking=70, waits=4, wait=("",), max_answer=12)),
    "minimum": (PETRI, BudgetPolicy(max_thinking=60, min_thinking=50, wait=("",), max_answer=12)),
    "minimum with words": (PETRI, BudgetPolicy(max_thinking=60, min_thinking=50, max_answer=12)),
    "a word": (WORD, BudgetPolicy(max_thinking=80, waits=2, max_answer=12)),
    "a masked word": (WORD, BudgetPolicy(max_thinking=60, min_thinking=50, wait=("",), max_answer=12)),
    "a cue": (PETRI, BudgetPolicy(max_thinking=30, cue="always", max_answer=12)),
    "own line": (LINED, BudgetPolicy(max_thinking=40, waits=1, max_answer=12)),
    "auto": (PETRI, BudgetPolicy(waits=3, max_answer=12)),
    "all of the context": (PETRI, BudgetPolicy(waits=3)),
}


class Rounds(Forcing):
    """Forced from outside."""

    by_rounds = True


def run_all(
    engine: Engine, kind: type[Forcing], names: Sequence[str] = tuple(POLICIES)
) -> dict[str, Generation]:
    """The generation of each policy and question, all at once."""

    async def one(fmt: ThinkingFormat, policy: BudgetPolicy, text: str) -> Generation:
        prompt = engine.render([{"role": "user", "content": text}])
        return await drive(kind(encode_prompt(engine, fmt, policy, prompt)), engine)

    async def every() -> list[Generation]:
        return await asyncio.gather(*(one(*POLICIES[name], text) for name in names for text in QUESTIONS))

    keys = [f"{name}, question {n}" for name in names for n in range(len(QUESTIONS))]
    return dict(zip(keys, asyncio.run(every()), strict=True))


def without_times(generation: Generation) -> Generation:
    return replace(generation, seconds=0.0, first_token_seconds=None)
