"""Traces packed small for the page: each text once, forks as prefixes of the longest, gzip and base64.

    overview policies, questions and one short row a receipt: what lists and filters need
    blocks   the texts of a few questions each, opened when one of them is looked at

Base64 holds no "<", so nothing that a model wrote can end the element it is kept in.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from s1.runs import Key, key_of
from s1.types import Generation, Grade, Question

OUTCOMES = ("right", "wrong", "cut", "no answer", "error")
PHASES = ("prompt", "thinking", "answer")
BLOCK = 25
"""Questions in a block."""
LIMIT = 40_000_000
"""Bytes of packed texts; a page over it holds the traces of the first questions only and says so."""


class Packed(NamedTuple):
    """Base64 of gzipped JSON, and for how many questions there are texts."""

    overview: str
    blocks: list[str]
    traced: int


def pack(
    questions: Sequence[Question],
    labels: Mapping[str, str],
    generations: Iterable[Generation],
    grades: Mapping[Key, Grade],
    *,
    limit: int = LIMIT,
) -> Packed:
    """The data of the page's viewer; `labels` has the label of each policy by its key.

    A receipt without a grade is shown as "not graded"."""
    places = {key: i for i, key in enumerate(labels)}
    by_question: dict[str, list[Generation]] = defaultdict(list)
    for generation in generations:
        by_question[generation.question_id].append(generation)
    rows, samples = [], 1
    for q, question in enumerate(questions):
        for g in by_question[question.id]:
            grade = grades.get(key_of(g))
            samples = max(samples, g.sample + 1)
            rows.append(
                [
                    q,
                    places[g.policy],
                    g.sample,
                    OUTCOMES.index(grade.outcome) if grade else -1,
                    grade.extracted if grade else None,
                    g.thinking_tokens,
                    g.answer_tokens,
                    g.waits,
                    int(g.cut),
                    g.error,
                ]
            )
    blocks: list[str] = []
    size = traced = 0
    for start in range(0, len(questions), BLOCK):
        group = questions[start : start + BLOCK]
        block = packed([_texts(by_question[q.id], places) for q in group])
        size += len(block)
        if size > limit and blocks:
            break
        blocks.append(block)
        traced = start + len(group)
    index = {
        "outcomes": OUTCOMES,
        "policies": list(labels.values()),
        "samples": samples,
        "block": BLOCK,
        "traced": traced,
        "questions": [[q.id, q.text, q.answer, q.source] for q in questions],
        "rows": rows,
    }
    return Packed(packed(index), blocks, traced)


def packed(value: Any) -> str:
    """Base64 of the gzipped JSON of a value; the same bytes every time."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode()


def _texts(generations: Sequence[Generation], places: Mapping[str, int]) -> list[Any]:
    """[texts, receipts]; a receipt is [policy, sample, segments], a segment [phase, forced, text, length].

    A segment is the first `length` UTF-16 units (what JavaScript counts) of its text.
    """
    texts: list[str] = []
    found: dict[str, int] = {}
    for text in sorted({s.text for g in generations for s in g.segments}, key=lambda t: (-len(t), t)):
        place = next((i for i, longer in enumerate(texts) if longer.startswith(text)), None)
        if place is None:
            place = len(texts)
            texts.append(text)
        found[text] = place
    receipts = [
        [
            places[g.policy],
            g.sample,
            [
                [PHASES.index(s.phase), int(s.by == "forced"), found[s.text], _units(s.text)]
                for s in g.segments
            ],
        ]
        for g in generations
    ]
    return [texts, receipts]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
