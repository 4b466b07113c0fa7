"""Answers that say the same are one candidate: the one grouping of votes, of methods and of maj@k alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from s1.grading.equivalence import LONGEST, equivalent, letters
from s1.grading.normal import clean, number, squeeze
from s1.grading.structure import words_of

COMPARE_SECONDS = 1.0
"""Processor time for comparing two answers that are spelled differently; after that they count as two."""


def candidates(answers: Sequence[str | None], kind: str = "math") -> list[list[int]]:
    """Groups of positions whose answers are equivalent under `kind` (`s1.grading.KINDS`). None joins no group.

    Equal spellings are grouped first. Then each spelling, the most frequent first, then in alphabetical order,
    joins the first group that it is equivalent to in either direction, or starts a new one. The groups are in
    that order, which does not depend on the order of `answers`.
    """
    spellings: dict[str, list[int]] = defaultdict(list)
    for i, answer in enumerate(answers):
        if answer is not None:
            spellings[canonical(answer, kind)].append(i)
    found: list[tuple[str, list[int]]] = []
    for spelling in sorted(spellings, key=lambda s: (-len(spellings[s]), s)):
        members = spellings[spelling]
        text = min((answers[i] or "" for i in members), key=lambda a: (len(a), a))
        for first, group in found:
            if _same(first, text, kind):
                group += members
                break
        else:
            found.append((text, members))
    return [group for _, group in found]


def canonical(answer: str, kind: str) -> str:
    """A spelling that equivalent answers often share and different answers never do."""
    bare = " ".join(answer.split())
    if kind == "exact" or len(answer) > LONGEST:
        return bare
    if kind == "choice":
        return letters(answer) or bare
    if kind == "text":
        return words_of(answer) or bare
    cleaned = clean(answer)
    if kind == "integer" and (value := number(cleaned)) is not None:
        return str(value.value)
    return squeeze(cleaned) or bare


def _same(one: str, other: str, kind: str) -> bool:
    return equivalent(one, other, kind, COMPARE_SECONDS) or equivalent(other, one, kind, COMPARE_SECONDS)
