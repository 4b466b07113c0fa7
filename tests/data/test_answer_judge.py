from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from s1.clients.call_cache import CallCache
from s1.clients.chat import ApiSettings
from s1.data.answer_judge import by_symbols, judge_all, short_answer
from s1.data.domains import classify, domain_name, read_code, read_domains
from s1.errors import BadConfig
from s1.grading.judge import Attempt, read_verdict


@pytest.mark.parametrize(
    ("reference", "text", "expected"),
    [
        ("60", r"So it is \boxed{60}.", True),
        ("60", r"So it is \boxed{61}.", False),
        (r"Long proof. Hence \boxed{\frac12}.", r"\boxed{0.5}", True),
        ("B", "The answer is (B).", True),
        ("ABD", "Answer: AB", False),
        ("x^2+1", r"\boxed{1+x^2}", True),
        ("x^2+1", r"\boxed{x^2-1}", None),
        ("the empty set", r"\boxed{\emptyset}", True),
        ("all natural numbers", r"\boxed{\mathbb{N}}", None),
        ("Prove it by induction.\n" * 20, "Done.", None),
        ("60", "I give up", False),
        (None, r"\boxed{60}", None),
    ],
)
def test_symbols_decide_only_what_they_can(reference: str | None, text: str, expected: bool | None) -> None:
    assert by_symbols(Attempt("q", text, reference)) is expected


def test_what_a_cut_attempt_ends_with_is_no_answer() -> None:
    assert by_symbols(Attempt("q", "so far we have 60", "60", cut=True)) is False
    assert by_symbols(Attempt("q", r"\boxed{60} and", "60", cut=True)) is True
    assert short_answer("x" * 500) is None and short_answer(" 7 ") == "7"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("It fits.\nYes", True), ("no.", False), ("**No**\n\n", False), ("Yes, it is", None), ("", None),
     ("Yes\nbecause", None)],
)  # fmt: skip
def test_a_verdict_is_the_last_line_and_nothing_else(text: str, expected: bool | None) -> None:
    assert read_verdict(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Geometry.\n51", "51"),
        ("**11**", "11"),
        ("code: 05.", "05"),
        ("in 1951", None),
        ("", None),
        ("51 it is", None),
    ],
)
def test_a_code_is_two_digits_at_the_end(text: str, expected: str | None) -> None:
    assert read_code(text) == expected


def test_the_judge_is_asked_only_what_symbols_leave_open(
    chat: Any, says: Callable[..., Any], tmp_path: Path
) -> None:
    chat.reply = says({"natural": "The same.\nYes", "x^2-1": "Different.\nNo", "odd": "I cannot tell"})
    attempts = {
        "number": Attempt("q", r"\boxed{60}", "60"),
        "set": Attempt("q", r"\boxed{\mathbb{N}}", "all natural numbers"),
        "sign": Attempt("q", r"\boxed{x^2-1}", "x^2+1"),
        "odd": Attempt("q", "odd", "some words that fit nothing"),
        "none": Attempt("q", "x", None),
    }
    judge = ApiSettings(url=chat.url, model="judge")
    with CallCache(tmp_path / "journal.jsonl") as journal:
        found = asyncio.run(judge_all(attempts, judge, journal))
        alone = asyncio.run(judge_all(attempts, None, journal))
    assert {n: (v.correct, v.by) for n, v in found.items()} == {
        "number": (True, "symbolic"), "set": (True, "judge"), "sign": (False, "judge"),
        "odd": (None, "nobody"), "none": (None, "nobody"),
    }  # fmt: skip
    assert len(chat.bodies) == 2 + 3  # the unreadable one three times
    system = chat.bodies[0]["messages"][0]
    assert system["role"] == "system" and "Yes" in system["content"] and "No" in system["content"]
    assert [n for n, v in alone.items() if v.correct is not None] == ["number"]


def test_another_list_of_subjects_is_read_and_checked(
    chat: Any, says: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "d.yaml").write_text('"01": Birds\n"02": Fish\n')
    domains = read_domains(tmp_path / "d.yaml")
    chat.reply = says({"q": "01"})
    with CallCache(tmp_path / "j.jsonl") as journal:
        call = classify({"a": "q"}, ApiSettings(url=chat.url, model="m"), journal, domains)
        assert asyncio.run(call) == {"a": "Birds"}
    for bad in ("- 1", "abc: Birds", '"01": [x]', "{"):
        (tmp_path / "d.yaml").write_text(bad)
        with pytest.raises(BadConfig, match="d.yaml"):
            read_domains(tmp_path / "d.yaml")


def test_subjects_have_names_of_their_own_and_are_described_in_our_words(shared_data: Path) -> None:
    subjects = read_domains()
    assert len({domain_name(line) for line in subjects.values()}) == len(subjects)
    theirs = json.loads((shared_data / "s1k/msc.json").read_text())
    taken = {text.strip().lower() for entry in theirs for text in (entry["title"], *entry["descriptions"])}
    remarks = [line.split(": ", 1)[1].lower() for line in subjects.values() if ": " in line]
    assert len(remarks) > 50 and not taken.intersection(remarks)


def test_the_subjects_are_the_61_of_the_authors(shared_data: Path) -> None:
    theirs = json.loads((shared_data / "s1k/msc.json").read_text())
    assert sorted(read_domains()) == sorted(entry["code"] for entry in theirs) and len(theirs) == 61
