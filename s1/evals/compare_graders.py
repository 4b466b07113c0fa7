"""Do graders agree? One run under the strict grader, the official extraction and, where given, a model judge.

The official extraction is the authors' without their judge (SEMANTICS 3.7), followed by our equivalence. The judge
sees problem, answer and reference, and is asked where a grader had to interpret: plain numbers and letters
decide themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from s1 import runs
from s1.grading import answer_text, grade
from s1.grading.judge import Attempt, Judge
from s1.types import Generation, Grade, Question, to_json

PLAIN = frozenset({"integer", "number", "letter", "exact"})
"""Rules that leave nothing to a judge."""


class Compared(NamedTuple):
    """One receipt under each grader; `judge` is None where it was not asked or gave no verdict."""

    key: runs.Key
    gold: str
    strict: Grade
    official: Grade
    judge: bool | None

    @property
    def disagree(self) -> bool:
        """Whether one grader calls right what another does not."""
        said = {self.strict.outcome == "right", self.official.outcome == "right"}
        return len(said | ({self.judge} if self.judge is not None else set())) > 1


def compare_graders(path: str | Path, judge: Judge | None = None) -> list[Compared]:
    """Every receipt of a run under each grader, in the order of the run; errors of the engine are left out."""
    kind = str(runs.read_config(path)["config"]["kind"])
    questions = {q.id: q for q in runs.read_questions(path)}
    receipts = [g for g in runs.read_generations(path) if g.error is None]
    strict, official = (
        {runs.key_of(g): grade(g, questions[g.question_id], kind, profile=profile) for g in receipts}
        for profile in ("strict", "official")
    )
    verdicts = verdicts_of(receipts, questions, strict, judge) if judge else {}
    return [
        Compared(
            key := runs.key_of(g),
            questions[g.question_id].answer or "",
            strict[key],
            official[key],
            verdicts.get(key),
        )
        for g in receipts
    ]


def verdicts_of(
    receipts: Iterable[Generation],
    questions: Mapping[str, Question],
    grades: Mapping[runs.Key, Grade],
    judge: Judge,
) -> dict[runs.Key, bool]:
    """What the judge says of the answers that `grades` had to interpret, or found none in."""
    attempts = {
        "/".join(map(str, key)): (key, Attempt(question.text, text, question.answer, g.finish == "length"))
        for g in receipts
        if not _settled(grades[key := runs.key_of(g)])
        and (question := questions[g.question_id])
        and (text := answer_text(g)).strip()
    }
    found = judge({name: attempt for name, (_, attempt) in attempts.items()})
    return {attempts[name][0]: verdict for name, verdict in found.items()}


def _settled(grade: Grade) -> bool:
    return (
        grade.how in PLAIN
        or grade.outcome == "error"
        or (grade.outcome == "right" and grade.how == "spelling")
    )


def with_judge(grades: Mapping[runs.Key, Grade], verdicts: Mapping[runs.Key, bool]) -> dict[runs.Key, Grade]:
    """`grades` where the judge may call right what the grader did not; what the grader found equal stays."""
    return {
        key: Grade("right", found.extracted, "judge")
        if found.outcome != "right" and verdicts.get(key)
        else found
        for key, found in grades.items()
    }


def agreement(compared: Sequence[Compared]) -> dict[str, int]:
    """How many receipts each grader calls right, and on how many they disagree."""
    return {
        "receipts": len(compared),
        "strict": sum(c.strict.outcome == "right" for c in compared),
        "official": sum(c.official.outcome == "right" for c in compared),
        "judged": sum(c.judge is not None for c in compared),
        "judge": sum(c.judge is True for c in compared),
        "disagree": sum(c.disagree for c in compared),
    }


def as_row(compared: Compared) -> dict[str, Any]:
    """One line of the listing, for JSON."""
    return {
        **compared.key._asdict(),
        "gold": compared.gold,
        "strict": to_json(compared.strict),
        "official": to_json(compared.official),
        "judge": compared.judge,
    }
