"""The table of cases, topic by topic, and what must not depend on a table."""

from __future__ import annotations

import random
import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from pace import slowness

from s1.errors import BadInput
from s1.evals.benchmarks import load_benchmark
from s1.grading import compare, equivalent, extract_answer

Case = tuple[str, str, bool]


def read_cases() -> dict[str, list[Case]]:
    cases: dict[str, list[Case]] = {}
    for line in (Path(__file__).parent / "cases.tsv").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            cases[line[3:]] = []
        elif not line.startswith("# "):
            sign, gold, answer = line.split("\t")
            cases[list(cases)[-1]].append((gold, answer, sign == "="))
    return cases


CASES = read_cases()


@pytest.mark.parametrize("topic", CASES)
def test_every_case_of_a_topic_is_decided_as_it_should_be(topic: str) -> None:
    wrong = [(g, a, e, compare(g, a).how) for g, a, e in CASES[topic] if equivalent(g, a) is not e]
    assert not wrong


def test_the_table_is_large_and_half_of_it_must_differ() -> None:
    cases = [case for topic in CASES.values() for case in topic]
    unequal = sum(not equal for *_, equal in cases)
    assert len(cases) > 1000 and 0.4 < unequal / len(cases) < 0.6
    assert len({case[:2] for case in cases}) == len(cases)


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [
        (7, "7.0", True),
        (0.5, r"\frac12", True),
        (Fraction(1, 2), 0.5, True),
        (float("inf"), r"\infty", True),
        ((1, 2), "(1,2)", True),
        ([1, 2], "2, 1", True),
        ({1, 2}, r"\{2,1\}", True),
        (True, "true", True),
        ("7", None, False),
        (None, None, False),
        (None, "7", False),
        (27.0, "2.7", False),
        ((1, 2), "(2,1)", False),
    ],
)
def test_numbers_lists_and_nothing_are_taken_as_answers(gold: object, answer: object, equal: bool) -> None:
    assert equivalent(gold, answer) is equal


def test_what_is_no_answer_at_all_is_refused_by_its_type() -> None:
    with pytest.raises(BadInput, match="type bytes"):
        equivalent(b"7", "7")
    with pytest.raises(BadInput, match="type dict"):
        extract_answer({"answer": 7})
    assert extract_answer(None) is None and extract_answer(7) == "7"


@pytest.mark.parametrize(
    "piece", ["x", "1", "(", "{", "$", r"\frac{", "A ", "1,", "-", "x=1 or ", r"\boxed{1} and "]
)
@pytest.mark.parametrize("kind", ["math", "integer", "choice", "text", "exact"])
def test_a_million_characters_are_dealt_with_at_once(piece: str, kind: str) -> None:
    text = (piece * 10**6)[: 10**6]
    before = time.thread_time()
    assert not equivalent("7", text, kind)
    extract_answer(text, kind)
    extract_answer(text, kind, profile="official")
    assert time.thread_time() - before < 2 * slowness()


FILES = ["aime2024.jsonl", "math500.jsonl", "imo_answerbench.jsonl", "olymmath_en.jsonl"]


@pytest.mark.parametrize("name", FILES)
def test_a_reference_answer_equals_its_other_spellings_and_no_other_digit(
    shared_data: Path, name: str
) -> None:
    benchmark = load_benchmark(shared_data / "benchmarks" / name)
    draw = random.Random(0)
    golds = sorted({str(q.answer) for q in benchmark.questions})
    golds = draw.sample(golds, min(60, len(golds)))
    lost, mistaken = [], []
    for gold in golds:
        spellings = (f"${gold}$", f"\\boxed{{{gold}}}", f"\\[ {gold} \\]", f"{gold}.")
        lost += [(gold, s) for s in spellings if not equivalent(gold, s, benchmark.kind)]
        if places := [m.start() for m in re.finditer(r"\d", gold)]:
            i = draw.choice(places)
            digit = draw.choice([d for d in "123456789" if d != gold[i]])
            changed = gold[:i] + digit + gold[i + 1 :]
            mistaken += [(gold, changed)] * equivalent(gold, changed, benchmark.kind)
    assert not lost and not mistaken
