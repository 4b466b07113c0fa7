"""Two runs, policy by policy, on the same questions or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from s1 import runs
from s1.cli import main
from s1.errors import BadConfig, BadInput
from s1.evals.compare_runs import compare_runs, right_shares
from s1.evals.run import grade_run
from s1.runs import PolicyRecord, RunConfig
from s1.types import Generation, Question, Segment

QUESTIONS = [Question(f"q{i}", f"What is {i}?", str(i)) for i in range(40)]


def make(
    path: Path,
    right: dict[str, set[int]],
    questions: list[Question] = QUESTIONS,
    samples: int = 1,
    **more: Any,
) -> Path:
    """A graded run in which the policies (by label) answer the questions of these numbers right."""
    policies = tuple(PolicyRecord(f"key of {label}", label, "natural") for label in right)
    config = replace(RunConfig("toy", "exact", "m", policies, samples=samples), **more)
    with runs.open_run(path, config, questions) as run:
        for label, numbers in right.items():
            for question in questions:
                for sample in range(samples):
                    text = str(question.answer) if int(question.id[1:]) in numbers else "no"
                    segment = Segment((1,), text, "answer", "model")
                    run.append(
                        Generation(
                            question.id, sample, f"key of {label}", (segment,), 7, 1, 0, 0, False, "stop"
                        )
                    )
        run.finish()
    grade_run(path)
    return path


def test_shared_policies_are_compared_in_pairs(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"natural": set(range(30)), "wait 1": set(range(30))})
    other = make(
        tmp_path / "other", {"natural": set(range(10)), "wait 1": set(range(29)) | {39}, "wait 2": set()}
    )
    natural, wait = compare_runs(one, other)
    assert (natural.policy, natural.against, natural.n) == ("natural", "natural", 40)
    assert (natural.accuracy, natural.accuracy_against, natural.difference) == (75, 25, 50)
    assert 30 < natural.low < 50 < natural.high < 70
    assert (natural.only_this_right, natural.only_against_right) == (20, 0) and natural.p < 1e-5
    assert (wait.only_this_right, wait.only_against_right, wait.p) == (1, 1, 1)
    assert wait.low < 0 < wait.high and wait.thinking_tokens == 7
    assert compare_runs(other, one)[0].difference == -50


def test_single_policies_are_compared_whatever_their_names(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"natural": set(range(30))})
    other = make(tmp_path / "other", {"max 8": set(range(20))})
    assert [(r.policy, r.against, r.difference) for r in compare_runs(one, other)] == [
        ("natural", "max 8", 25)
    ]


def test_samples_are_averaged_before_they_are_compared(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"natural": set(range(30))}, samples=3)
    other = make(tmp_path / "other", {"natural": set(range(20))})
    found = compare_runs(one, other)[0]
    assert (found.n, found.difference, found.only_this_right) == (40, 25, 10)


def test_policies_that_share_no_name_must_be_named(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"a": {1}, "b": {2}})
    other = make(tmp_path / "other", {"c": {1}})
    with pytest.raises(BadConfig, match=r"a, b.*c.*in common"):
        compare_runs(one, other)
    assert compare_runs(one, other, ("b", "c")) == compare_runs(one, other, ("key of b", "key of c"))
    assert compare_runs(one, other, ("b", "c"))[0].difference == 0
    with pytest.raises(BadConfig, match="no policy 'd'"):
        compare_runs(one, other, ("d", "c"))


def test_different_questions_answers_or_gradings_are_refused(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"natural": {1}})
    fewer = make(tmp_path / "fewer", {"natural": {1}}, QUESTIONS[:30], benchmark="small")
    with pytest.raises(BadInput, match=r"40 of toy in .*30 of small in .*10 differ.*'q30'"):
        compare_runs(one, fewer)
    changed = [*QUESTIONS[:-1], Question("q39", "What is 39?", "93")]
    with pytest.raises(BadInput, match="1 differ.*'q39', is '39' and '93'"):
        compare_runs(one, make(tmp_path / "changed", {"natural": {1}}, changed))
    official = make(tmp_path / "official", {"natural": {1}}, grading="official")
    with pytest.raises(BadInput, match="graded as 'strict'.*as 'official'"):
        compare_runs(one, official)


def test_a_run_that_was_not_graded_says_so(tmp_path: Path) -> None:
    one = make(tmp_path / "one", {"natural": {1}})
    other = make(tmp_path / "other", {"natural": {1}})
    (other / "grades.jsonl").unlink()
    with pytest.raises(BadInput, match=r"grades\.jsonl is missing"):
        compare_runs(one, other)


def test_the_command_says_which_run_is_better_or_that_the_questions_are_too_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = make(tmp_path / "one", {"natural": set(range(30)), "wait 1": set(range(30))})
    other = make(tmp_path / "other", {"natural": set(range(10)), "wait 1": set(range(29)) | {39}})
    before = sorted(p.name for p in one.iterdir())
    assert main(["report", str(one), "--against", str(other)]) == 0
    printed = capsys.readouterr().out
    assert "natural: this run is better (95 % confidence)." in printed
    assert "wait 1: 40 questions cannot tell; they would show a difference of" in printed
    assert "+50.0" in printed and sorted(p.name for p in one.iterdir()) == before
    assert (
        main(["report", str(one), "--against", str(make(tmp_path / "s", {"natural": {1}}, QUESTIONS[:9]))])
        == 2
    )
    assert "different questions" in capsys.readouterr().err


def test_samples_that_differ_a_little_everywhere_show_small_differences(tmp_path: Path) -> None:
    folders = [make(tmp_path / name, {"natural": set(range(30))}, samples=8) for name in ("one", "other")]
    grades = runs.read_grades(folders[0])
    flipped = {
        key: replace(grade, outcome="wrong" if grade.outcome == "right" else "right")
        if not key.sample
        else grade
        for key, grade in grades.items()
    }
    runs.write_grades(folders[0], flipped)
    (row,) = compare_runs(*folders)
    assert row.smallest_difference == pytest.approx(100 * 2.8016 * (1 / 8) / 40**0.5, rel=1e-3), (
        "not 44 points"
    )


def test_a_comparison_with_an_incomplete_run_says_so_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from s1.evals.run import grade_run

    one, other = (make(tmp_path / name, {"natural": {1, 2}}) for name in "ab")
    file = other / "generations.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-3]))
    grade_run(other)
    assert main(["report", str(one), "--against", str(other)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert str(other) in first and "incomplete" in first


def test_a_question_counts_once_all_its_samples_are_there(tmp_path: Path) -> None:
    from s1.evals.run import grade_run

    folder = make(tmp_path / "a", {"natural": {1, 2}}, samples=4)
    file = folder / "generations.jsonl"
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-3]))
    metrics = grade_run(folder)
    assert (metrics.samples, metrics.done, metrics.expected, metrics.complete) == (4, 157, 160, 39)
    assert len(right_shares(folder)["key of natural"]) == 39
