"""Grading without an API key: extraction, equivalence, outcome.

Kinds of answer: "math" (any expression), "integer" (AIME: 023 is 23), "choice" (letters), "text"
(words, case and punctuation ignored), "exact" (the same characters once spaces are collapsed).
"""

from s1.grading.equivalence import KINDS, Verdict, compare, equivalent
from s1.grading.extract import extract_answer
from s1.grading.grouping import candidates
from s1.grading.outcome import answer_text, committed, grade

__all__ = [
    "KINDS",
    "Verdict",
    "answer_text",
    "candidates",
    "committed",
    "compare",
    "equivalent",
    "extract_answer",
    "grade",
]
