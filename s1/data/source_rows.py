"""What some of the paper's sources need beyond their description in `sources.yaml`, as plain functions.

Each takes a row of the source and the seed, changes the row in place, and returns it; the description then
picks columns from it as from any other row. `_part` is the config or file that the row came from.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

SourceRow = dict[str, Any]
Prepare = Callable[[SourceRow, int], SourceRow]


def seeded_key(seed: int, text: str) -> bytes:
    """A sort key for a text that depends on the seed alone, not on the order of rows."""
    return hashlib.sha256(f"{seed}\n{text}".encode(errors="surrogatepass")).digest()


def olympicarena(row: SourceRow, seed: int) -> SourceRow:
    row["_kind"] = {"Math": "math", "CS": "coding"}.get(row.get("subject", ""), "science")
    return row


def agieval(row: SourceRow, seed: int) -> SourceRow:
    math = ("sat_math", "logiqa", "aqua_rat", "math_agieval", "math")
    row["_kind"] = "math" if row["_part"] in math else "english"
    return row


def xword(row: SourceRow, seed: int) -> SourceRow:
    row["input"] = str(row.get("input", "")).split("### Clue: ", 1)[-1]
    return row


def jeebench(row: SourceRow, seed: int) -> SourceRow:
    row["_kind"] = "science" if row.get("subject") == "chem" else "math"
    return row


def gpqa(row: SourceRow, seed: int) -> SourceRow:
    """Appends the choices as (A) to (D), in an order that the seed decides; the answer becomes the letter."""
    if row.get("Question"):
        names = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
        choices = [str(row.get(name)).strip() for name in names]
        ordered = sorted(choices, key=lambda text: seeded_key(seed, f"{row['Question']}\n{text}"))
        lines = [f"({letter}) {text}" for letter, text in zip("ABCD", ordered, strict=True)]
        row["_letter"] = "ABCD"[ordered.index(choices[0])]
        row["_question"] = "\n".join([str(row["Question"]).strip(), "", *lines])
    return row


def scieval(row: SourceRow, seed: int) -> SourceRow:
    """The answer is the first of a list, often written as text; half a question becomes a whole one."""
    answer = row.get("answer")
    if isinstance(answer, str) and answer.startswith("["):
        try:
            answer = ast.literal_eval(answer)
        except (ValueError, SyntaxError):
            pass  # the text only looks like a list
    row["answer"] = (answer[0] if answer else None) if isinstance(answer, list) else answer
    if isinstance(row.get("question"), str):
        question = row["question"].split("\n\nAnswer:", 1)[0]
        for what in ("solvent", "ligand", "reactant"):
            question = question.replace(f"\nOptimal {what}:", f"\nWhat is the optimal {what}?")
        row["question"] = question
    medical = row.get("task_name") in ("MedQA", "PubMedQA")
    row["_kind"] = "health science" if medical else "science"
    return row


PREPARE: Mapping[str, Prepare] = {
    function.__name__: function for function in (olympicarena, agieval, xword, jeebench, gpqa, scieval)
}
"""By the name that `prepare` gives them in `sources.yaml`."""
