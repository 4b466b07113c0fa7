"""Traces packed small for the page: each text once, shared prefixes once, gzip and base64.

    overview   policies, questions and one short row for each generation: what lists and filters need
    blocks     the texts of a few questions each, unpacked when one of them is opened

Base64 has no "<", so nothing that a model wrote can end the element around it.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, get_args

from s1.grading import committed
from s1.runs import Key, key_of
from s1.types import Generation, Grade, Outcome, Phase, Question, Segment

OUTCOMES = get_args(Outcome)
PHASES = get_args(Phase)
BLOCK = 25
"""Questions in a block."""
LIMIT = 40_000_000
"""Bytes of packed texts; a page over it holds the traces of the first questions only and says so."""


class PackedTraces(NamedTuple):
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
    samples: int = 1,
    kind: str = "math",
    profile: str = "strict",
    limit: int = LIMIT,
) -> PackedTraces:
    """The data of the page's viewer.

    `labels` has the label of each policy by its key, and `samples` is how many of each question the run asks for. A
    generation without a grade is shown as "not graded". `kind` and `profile` are those of the grading: the answer
    of each rollout is extracted with them.
    """
    places = {key: i for i, key in enumerate(labels)}
    by_question: dict[str, list[Generation]] = defaultdict(list)
    for generation in generations:
        by_question[generation.question_id].append(generation)
    rows = [
        [q, places[g.policy], g.sample, *_outcome(grades.get(key_of(g))), g.thinking_tokens, g.answer_tokens,
         g.waits, int(g.cut), g.error, g.spent.thinking if g.spent else None]
        for q, question in enumerate(questions)
        for g in by_question[question.id]
    ]  # fmt: skip
    blocks: list[str] = []
    size = traced = 0
    for start in range(0, len(questions), BLOCK):
        group = questions[start : start + BLOCK]
        block = packed([_texts(q, by_question[q.id], places, kind, profile) for q in group])
        size += len(block)
        if size > limit and blocks:
            break
        blocks.append(block)
        traced = start + len(group)
    overview = {
        "outcomes": OUTCOMES,
        "policies": list(labels.items()),
        "samples": samples,
        "block": BLOCK,
        "traced": traced,
        "questions": [[q.id, q.text, q.answer, q.source] for q in questions],
        "rows": rows,
    }
    return PackedTraces(packed(overview), blocks, traced)


def packed(value: Any) -> str:
    """Base64 of the gzipped JSON of a value; the same bytes every time."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode()


def _outcome(grade: Grade | None) -> tuple[int, str | None]:
    return (OUTCOMES.index(grade.outcome), grade.extracted) if grade else (-1, None)


def _texts(
    question: Question, generations: Sequence[Generation], places: Mapping[str, int], kind: str, profile: str
) -> list[Any]:
    """[texts, traces]; a trace is [policy, sample, segments, rollouts], a segment [phase, forced, text, length].

    A rollout is [segments, thinking tokens, answer tokens, answer found, chosen, error]. A segment is the first
    `length` UTF-16 units (what JavaScript counts) of its text.
    """
    texts: list[str] = []
    found: dict[str, int] = {}
    written = [s for g in generations for s in (*g.segments, *(s for r in g.rollouts for s in r.segments))]
    for text in sorted({s.text for s in written}, key=lambda t: (-len(t), t)):
        place = next((i for i, longer in enumerate(texts) if longer.startswith(text)), None)
        if place is None:
            place = len(texts)
            texts.append(text)
        found[text] = place

    def places_of(segments: Sequence[Segment]) -> list[list[int]]:
        return [
            [PHASES.index(s.phase), int(s.by == "forced"), found[s.text], _units(s.text)] for s in segments
        ]

    traces = []
    for g in generations:
        rollouts = []
        for r in g.rollouts:
            alone = replace(g, segments=r.segments, finish=r.finish, error=r.error)
            answer = None if r.error else committed(alone, question, kind, profile=profile)
            counts = [r.thinking_tokens, r.answer_tokens]
            rollouts.append([places_of(r.segments), *counts, answer, int(r.chosen), r.error])
        traces.append([places[g.policy], g.sample, places_of(g.segments), rollouts])
    return [texts, traces]


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
