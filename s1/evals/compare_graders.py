"""Do graders agree? One run under the strict grader, the official extraction and, optionally, a model judge.

The official extraction is that of the authors without their judge, followed by our equivalence check. The
judge sees problem, answer and reference, and is asked only where a grader had to interpret: plain numbers and
letters need no judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from s1.grading import answer_text, grade
from s1.grading.judge import Attempt, Judge
from s1.runs import Key, key_of, read_config, read_generations, read_questions
from s1.types import Generation, Grade, Question

PLAIN = frozenset({"integer", "number", "letter", "exact"})
"""Rules of the grader that leave nothing to a judge."""


@dataclass(frozen=True, slots=True)
class GraderComparison:
    """One generation under each grader."""

    question_id: str
    sample: int
    policy: str
    gold: str
    """The reference answer."""
    strict: Grade
    official: Grade
    judge: bool | None
    """None where the judge was not asked or gave no verdict."""

    @property
    def disagree(self) -> bool:
        """Whether one grader calls right what another does not."""
        verdicts = {self.strict.outcome == "right", self.official.outcome == "right"}
        return len(verdicts | ({self.judge} if self.judge is not None else set())) > 1


def compare_graders(path: str | Path, judge: Judge | None = None) -> list[GraderComparison]:
    """Every generation of a run under each grader, in the order of the run; those with an error are left out."""
    kind = read_config(path).config.kind
    questions = {q.id: q for q in read_questions(path)}
    generations = [g for g in read_generations(path) if g.error is None]
    strict, official = (
        {key_of(g): grade(g, questions[g.question_id], kind, profile=profile) for g in generations}
        for profile in ("strict", "official")
    )
    verdicts = verdicts_of(generations, questions, strict, judge) if judge else {}
    return [
        GraderComparison(
            *key, questions[key.question_id].answer or "", strict[key], official[key], verdicts.get(key)
        )
        for key in strict
    ]


def agreement(compared: Sequence[GraderComparison]) -> dict[str, int]:
    """How many generations each grader calls right, how many the judge saw, on how many they disagree."""
    return {
        "generations": len(compared),
        "strict": sum(c.strict.outcome == "right" for c in compared),
        "official": sum(c.official.outcome == "right" for c in compared),
        "judged": sum(c.judge is not None for c in compared),
        "judge": sum(c.judge is True for c in compared),
        "disagree": sum(c.disagree for c in compared),
    }


def verdicts_of(
    generations: Iterable[Generation],
    questions: Mapping[str, Question],
    grades: Mapping[Key, Grade],
    judge: Judge,
) -> dict[Key, bool]:
    """The judge's verdicts on the answers that `grades` had to interpret, or found none in."""
    attempts: dict[str, Attempt] = {}
    keys: dict[str, Key] = {}
    for g in generations:
        key, question, text = key_of(g), questions[g.question_id], answer_text(g)
        if text.strip() and not _settled(grades[key]):
            name = "/".join(map(str, key))
            keys[name] = key
            attempts[name] = Attempt(question.text, text, question.answer, g.finish == "length")
    return {keys[name]: verdict for name, verdict in judge(attempts).items()}


def with_judge(grades: Mapping[Key, Grade], verdicts: Mapping[Key, bool]) -> dict[Key, Grade]:
    """`grades`, with "right" where the judge says so; what the grader found right stays right."""
    return {
        key: Grade("right", found.extracted, "judge")
        if found.outcome != "right" and verdicts.get(key)
        else found
        for key, found in grades.items()
    }


def _settled(grade: Grade) -> bool:
    """Whether no judge is needed."""
    return (
        grade.how in PLAIN
        or grade.outcome == "error"
        or (grade.outcome == "right" and grade.how == "spelling")
    )
