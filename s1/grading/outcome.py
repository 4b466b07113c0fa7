"""From a generation to its grade: right, wrong, cut, no answer or error."""

from __future__ import annotations

import re
from fractions import Fraction

from s1.errors import BadInput, S1Error
from s1.grading.equivalence import compare
from s1.grading.extract import extract_answer
from s1.grading.normal import clean, number
from s1.grading.units import split_unit
from s1.types import Generation, Grade, Question


def grade(
    generation: Generation, question: Question, kind: str = "math", *, profile: str = "strict"
) -> Grade:
    """The grade of one generation. Only the answer phase is read, never the thinking.

    "cut": the answer reached its limit before it committed to anything (a box, or an answer after a
    cue); "no answer": it ended by itself and nothing in it can be read as an answer; "error": the engine
    recorded one, or the grader itself failed on this answer. `question.meta["tolerance"]`, if present, is
    the absolute difference allowed between numbers.
    Raises BadInput if the question has no reference answer, or is not the generation's question.
    """
    if generation.question_id != question.id:
        raise BadInput(
            f"The generation of question {generation.question_id} was given question {question.id} to grade.",
            "Grade a run on the benchmark it was made with.",
        )
    if question.answer is None or not question.answer.strip():
        raise BadInput(
            f"Question {question.id} has no reference answer.",
            "Add one, or leave the question out of the run.",
        )
    if generation.error is not None:
        return Grade("error", None, generation.error)
    try:
        return _graded(generation, question, kind, profile)
    except S1Error:
        raise
    except Exception as error:  # a bug of the grader costs one answer, not the run
        return Grade("error", None, f"grader: {type(error).__name__}: {error}")


def _graded(generation: Generation, question: Question, kind: str, profile: str) -> Grade:
    extracted = committed(generation, question, kind, profile=profile)
    if extracted is None:
        ended = generation.finish != "length"
        return Grade("no answer", None, "nothing to extract") if ended else Grade("cut", None, "answer limit")
    verdict = compare(question.answer or "", extracted, kind)
    if not verdict.equal and _within(question, extracted):
        return Grade("right", extracted, "tolerance")
    return Grade("right" if verdict.equal else "wrong", extracted, verdict.how)


def committed(
    generation: Generation, question: Question, kind: str = "math", *, profile: str = "strict"
) -> str | None:
    """The answer that a generation commits to, as written, or None. The reference answer is not used."""
    text = answer_text(generation)
    if profile == "official":
        return extract_answer(text, kind, profile=profile) if text.strip() else None
    ended = generation.finish != "length"
    extracted = extract_answer(text, kind, weak=ended)
    return _named_choice(text, question, ended) if extracted is None and kind == "choice" else extracted


def answer_text(generation: Generation) -> str:
    """The model's answer, with "Final Answer:" before it if that cue was forced."""
    own = generation.text_of("answer")
    cue = re.search(r"(?:final\s+)?answer\s*:\s*$", generation.text_of("delimiter"), re.I)
    return f"{cue.group().strip()} {own}" if cue else own


def _named_choice(text: str, question: Question, ended: bool) -> str | None:
    """The letter of the choice that the answer spells out, if it is exactly one."""
    found = extract_answer(text, "text", weak=ended)
    hits = [i for i, choice in enumerate(question.choices) if compare(choice, found, "text").equal]
    return chr(ord("A") + hits[0]) if len(hits) == 1 else None


def _within(question: Question, extracted: str) -> bool:
    tolerance = question.meta.get("tolerance")
    if tolerance is None or question.answer is None:
        return False
    gold, answer = (number(split_unit(clean(t))[0].rstrip("% ")) for t in (question.answer, extracted))
    if gold is None or answer is None:
        return False
    return abs(gold.value - answer.value) <= Fraction(str(tolerance))
