"""A sweep over several wait strings, and what the command prints in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from s1 import runs
from s1.cli import main
from s1.cli.options import wait_strings
from s1.engines.scripted import ScriptedEngine
from s1.evals.metrics import read_metrics
from s1.evals.run import policies_of
from s1.formats import FORMATS
from s1.policy import BudgetPolicy
from s1.types import Sampling

FMT = FORMATS["petri"]


def model(prefix: str) -> str:
    """Right once it was made to wait with "Hmm"."""
    if "</think>" in prefix:
        return (" Answer: 5" if "Hmm" in prefix else " Answer: 4") + "<|end|>"
    return " try more</think>"


@pytest.mark.parametrize(
    ("text", "strings"),
    [
        ("Wait", ("Wait",)),
        ("Wait,Hmm", ("Wait", "Hmm")),
        ("Wait, let me see", ("Wait, let me see",)),
        ("", ("",)),
    ],
)
def test_a_comma_without_a_space_makes_a_cycle(text: str, strings: tuple[str, ...]) -> None:
    assert wait_strings(text) == strings


def test_the_grid_has_each_number_of_waits_with_each_string() -> None:
    grid = policies_of((8,), (0, 2, 1), strings=(("Wait",), ("Wait", "Hmm"), ("",), ("Wait",)))
    assert [p.label for p in grid] == [
        "max 8", "natural", "wait 1", "wait 2", "wait 1, with 'Wait'/'Hmm'", "wait 2, with 'Wait'/'Hmm'",
        "wait 1, with ''", "wait 2, with ''",
    ]  # fmt: skip
    assert policies_of((), (1,), base=BudgetPolicy(wait=("Hmm",)))[1].wait == ("Hmm",)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> ScriptedEngine:
    made = ScriptedEngine(model)
    monkeypatch.setattr("s1.cli.evaluation.open_engine", lambda spec, fmt: made)
    return made


def sweep(tmp_path: Path, *more: str) -> list[str]:
    file = tmp_path / "set.jsonl"
    file.write_text("".join(f'{{"problem": "{i} plus 0?", "answer": "5"}}\n' for i in range(6)))
    return ["sweep", "--benchmark", str(file), "--model", "toy", "--format", "petri", "--max-answer", "40",
            "--out", str(tmp_path / "run"), *more]  # fmt: skip


def test_a_sweep_of_wait_strings_decodes_shared_prefixes_once_and_says_what_to_use(
    tmp_path: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="a sweep draws its figure; install s1[report]")
    command = sweep(
        tmp_path, "--budgets", "4", "--waits", "1,2", "--wait", "Wait", "--wait", "Hmm", "--wait", "Wait,Hmm"
    )
    assert main(command) == 0
    printed = capsys.readouterr().out
    points = {p.label: p.accuracy for p in read_metrics(tmp_path / "run").points}
    assert points == {
        "max 4": 0, "natural": 0, "wait 1": 0, "wait 2": 0, "wait 1, with 'Hmm'": 100, "wait 2, with 'Hmm'": 100,
        "wait 1, with 'Wait'/'Hmm'": 0, "wait 2, with 'Wait'/'Hmm'": 100,
    }  # fmt: skip
    for expected in (
        "Control 100.0 % of runs, 100.0 % of samples",
        "points per doubling, robust (Theil-Sen)",
        "points per 1,000 tokens",
        "Advice: \"wait 1, with 'Hmm'\" is the best",
        "6 questions show a difference of",
    ):
        assert expected in printed, printed
    thinking = [a for a in engine.asked if FMT.close not in engine.decode(a.prefix)]
    # a question: the natural end, then Wait, Wait Wait, Hmm, Hmm Hmm and Wait Hmm
    assert len(thinking) == 6 * 6


@pytest.mark.parametrize(
    "says",
    [lambda prefix: "<|end|>" if "</think>" in prefix else "</think>", lambda prefix: " and so on" * 300],
    ids=["silent", "endless"],
)
def test_a_sweep_ends_whatever_the_model_says(
    says: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="a sweep draws its figure; install s1[report]")
    monkeypatch.setattr("s1.cli.evaluation.open_engine", lambda spec, fmt: ScriptedEngine(says, context=1000))
    assert main(sweep(tmp_path, "--budgets", "4,8", "--waits", "1,2")) == 0
    assert [c.per_run for c in read_metrics(tmp_path / "run").control] == [100]


def test_samples_of_a_sweep_have_seeds_of_their_own(tmp_path: Path, engine: ScriptedEngine) -> None:
    pytest.importorskip("matplotlib", reason="a sweep draws its figure; install s1[report]")
    assert main(sweep(tmp_path, "--waits", "1", "--samples", "3", "--temperature", "1", "--seed", "4")) == 0
    generations = runs.read_generations(tmp_path / "run")
    assert len(generations) == 6 * 3 * 2 and len({g.seed for g in generations}) == 18
    assert read_metrics(tmp_path / "run").samples == 3


def test_controls_add_an_arm_that_appends_nothing_and_a_neutral_one(
    tmp_path: Path, engine: ScriptedEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="a sweep draws its figure; install s1[report]")
    assert main(sweep(tmp_path, "--waits", "1", "--controls")) == 0
    found = read_metrics(tmp_path / "run")
    assert [p.wait for p in found.points if p.kind == "wait"] == [("Wait",), ("",), ("Next",)]
    assert [p.waits_appended for p in found.points] == [0, 1, 1, 1]
    mine = sweep(tmp_path, "--waits", "1", "--controls", "--wait", "Hmm")
    mine[mine.index("--out") + 1] += "2"
    assert main(mine) == 0
    strings = [p.wait for p in read_metrics(tmp_path / "run2").points if p.kind == "wait"]
    assert strings == [("Hmm",), ("",), ("Next",)]


def test_questions_that_a_larger_budget_turns_wrong_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Questions 0 and 1 are right at the end and wrong after a Wait; question 2 right again after the second."""
    pytest.importorskip("matplotlib", reason="a sweep draws its figure; install s1[report]")

    def says(prefix: str) -> str:
        if "</think>" not in prefix:
            return " try more</think>"
        number, waits = int(prefix.split(" plus")[0][-1]), prefix.count("Wait")
        right = {0: waits == 0, 1: waits < 1, 2: waits != 1, 3: waits > 0}.get(number, True)
        return (" Answer: 5" if right else " Answer: 4") + "<|end|>"

    monkeypatch.setattr("s1.cli.evaluation.open_engine", lambda spec, fmt: ScriptedEngine(says))
    assert main(sweep(tmp_path, "--budgets", "4", "--waits", "2,1")) == 0
    found = read_metrics(tmp_path / "run")
    short, waits = found.ladders
    assert [found.point(key).label for key in short.policies] == ["max 4", "natural"] and not short.questions
    assert [found.point(key).label for key in waits.policies] == ["natural", "wait 1", "wait 2"]
    assert (waits.n, waits.not_monotone) == (6, 50) and waits.low < 50 < waits.high
    assert [each.right for each in waits.questions] == [
        (True, False, False), (True, False, False), (True, False, True)
    ]  # fmt: skip
    ids = [q.id for q in runs.read_questions(tmp_path / "run")]
    assert [each.question_id for each in waits.questions] == ids[:3]
    printed = capsys.readouterr().out
    assert f"{ids[2]}: natural right, wait 1 wrong, wait 2 right" in printed and "50.0 %" in printed


@pytest.mark.parametrize("name", ["..", ".hidden", "../up", "a/../../b", "-", "é"])
def test_the_default_folder_of_a_run_is_neither_hidden_nor_above(name: str) -> None:
    from s1.cli.evaluation import _folder_name
    from s1.evals.run import Plan

    folder = _folder_name(name, "..", "sweep", Plan((BudgetPolicy(),)))
    assert not folder.startswith((".", "-")) and "/" not in folder


def test_sweeps_that_differ_have_default_folders_that_differ() -> None:
    from s1.cli.evaluation import _folder_name
    from s1.evals.run import Plan, policies_of

    plan = Plan(policies_of((16, 32), (1,)))
    drawn = replace(plan, sampling=Sampling(0.8, seed=0), samples=2)
    plans = [
        (plan, None), (plan, 40), (Plan(policies_of((16,), (1,))), None), (Plan(policies_of((16, 32), (2,))), None),
        (Plan(policies_of((16, 32), (1,), strings=(("Hmm",),))), None), (replace(plan, grading="official"), None),
        (drawn, None), (replace(drawn, samples=4), None), (replace(drawn, sampling=Sampling(0.8, seed=1)), None),
        (replace(drawn, sampling=Sampling(0.8, top_p=0.9, seed=0)), None),
    ]  # fmt: skip
    names = [_folder_name("petri", "petri", "sweep", each, limit) for each, limit in plans]
    assert len(set(names)) == len(names) and names == [
        _folder_name("petri", "petri", "sweep", each, limit) for each, limit in plans
    ]
    assert names[0] == "petri-petri-sweep-max-thinking-16-max-thinking-32-natural-waits-1"
