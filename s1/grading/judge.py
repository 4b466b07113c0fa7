"""The prompt for a model that judges answers, and how its verdict is read. Clients that ask it are elsewhere.

The protocol is the paper's (section 2.2): the judge sees the problem, the attempt and the reference, explains,
and ends with a last line that is exactly Yes or No. A `Judge` maps each attempt's name to its verdict;
attempts without a verdict are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

JUDGE_SYSTEM = (
    "You compare a student's attempt at a problem with the reference answer. Only the final answer counts: "
    "it is correct when it says the same as the reference, however it is written. Explain your decision "
    "briefly. Then end with a line that holds one word and nothing else: Yes if the attempt is correct, "
    "No if it is not."
)


class Attempt(NamedTuple):
    """An attempt to judge. `cut` if it ended at its token limit."""

    question: str
    text: str
    reference: str | None
    cut: bool = False


Judge = Callable[[Mapping[str, Attempt]], Mapping[str, bool]]


def judge_text(attempt: Attempt) -> str:
    """The message to the judge."""
    return (
        f"## Problem\n{attempt.question}\n\n## Attempt\n{attempt.text}\n\n"
        f"## Reference answer\n{attempt.reference}"
    )


def read_verdict(text: str) -> bool | None:
    """Yes or No as the last line, ignoring emphasis marks and a full stop; None for anything else."""
    lines = [line.strip(" \t*_.`") for line in text.splitlines() if line.strip()]
    return {"yes": True, "no": False}.get(lines[-1].lower()) if lines else None
