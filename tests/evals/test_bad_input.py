"""What goes wrong in an evaluation ends in a clear outcome or error, and nothing that was done is lost."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from s1 import runs
from s1.cli import main
from s1.data.read_files import MAX_ROW
from s1.engines.scripted import ScriptedEngine
from s1.errors import EngineFailure, S1Error
from s1.evals.benchmarks import Benchmark
from s1.evals.run import Plan, evaluate, grade_run
from s1.formats import FORMATS
from s1.grading import compare
from s1.policy import BudgetPolicy
from s1.types import Question, question_id

FMT = FORMATS["petri"]


def model(prefix: str) -> str:
    return r" \boxed{5}<|end|>" if "</think>" in prefix else " try more</think>"


def benchmark(n: int, kind: str = "exact", answer: str = r"\boxed{5}") -> Benchmark:
    questions = tuple(Question(question_id(f"q{i}"), f"q{i}", answer) for i in range(n))
    return Benchmark("toy", kind, questions, "1")


PLAN = Plan((BudgetPolicy(max_thinking=40, max_answer=40),))


def test_a_row_without_an_answer_stops_the_command_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "2+2?"}\n')
    assert (
        main(["eval", "--benchmark", str(file), "--model", "scripted:", "--out", str(tmp_path / "run")]) == 2
    )
    assert "row 2: no answer found" in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "head", "tail"),
    [
        ("set.jsonl", '{"problem": "1+1?", "answer": "2"}\n', '\n{"problem": "2+2?", "answer": "4"}\n'),
        ("set.csv", "problem,answer\n1+1?,2\n", "\n2+2?,4\n3+3?,6\n"),
    ],
)
def test_a_huge_row_is_refused_by_its_number_and_never_held_in_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, head: str, tail: str
) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(head.encode())
        file.seek(16 * MAX_ROW, 1)  # a line of zeros, which takes no room on the disk
        file.write(tail.encode())
    tracemalloc.start()
    try:
        code = main(
            ["eval", "--benchmark", str(path), "--model", "scripted:", "--out", str(tmp_path / "run")]
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert code == 2 and f"{name}, row 2: the row is longer" in capsys.readouterr().err
    assert peak < 6 * MAX_ROW


@pytest.mark.parametrize("monster", ["9^{9^{9^{9}}}", "(((((" * 300, r"\frac{" * 300, "x^" * 500])
def test_a_monstrous_answer_is_wrong_and_the_run_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monster: str
) -> None:
    def writes(prefix: str) -> str:
        return f" Answer: {monster}<|end|>" if "</think>" in prefix else " try</think>"

    monkeypatch.setattr("s1.grading.outcome.compare", lambda g, a, kind: compare(g, a, kind, 0.3))
    plan = Plan((BudgetPolicy(max_thinking=40),))
    metrics = evaluate(benchmark(2, "math", "5"), ScriptedEngine(writes), FMT, plan, tmp_path / "run")
    assert metrics.points[0].outcomes["wrong"] == 2


def test_a_grader_that_raises_costs_that_answer_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising(gold: object, answer: object, *rest: object) -> object:
        raise ZeroDivisionError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr("s1.grading.outcome.compare", raising)
        metrics = evaluate(benchmark(3), ScriptedEngine(model), FMT, PLAN, tmp_path / "run")
    assert metrics.points[0].outcomes["error"] == 3
    assert {g.how for g in runs.read_grades(tmp_path / "run").values()} == {
        "grader: ZeroDivisionError: a mistake of ours"
    }
    assert grade_run(tmp_path / "run").points[0].accuracy == 100, "the generations are complete"


def test_a_model_that_never_ends_is_cut_and_counted_as_such(tmp_path: Path) -> None:
    endless = ScriptedEngine(lambda prefix: " and so on" * 50, context=400)
    plan = Plan((BudgetPolicy(max_thinking=40, max_answer=40, cue="never"),))
    metrics = evaluate(benchmark(3, "math", "5"), endless, FMT, plan, tmp_path / "run")
    point = metrics.points[0]
    assert point.outcomes["cut"] == 3 and point.cut_share == 100 and point.thinking_tokens == 40
    assert point.accuracy == 0 and point.accuracy_best == 100


def test_a_server_that_dies_at_question_200_of_500_loses_nothing(tmp_path: Path) -> None:
    answered = 0

    def dying(prefix: str) -> str:
        nonlocal answered
        answered += 1
        if answered > 400:  # two requests a question
            raise EngineFailure("connection refused")
        return model(prefix)

    questions = benchmark(500)
    with pytest.raises(S1Error, match="connection refused") as error:
        evaluate(questions, ScriptedEngine(dying), FMT, PLAN, tmp_path / "run", concurrency=1)
    assert "resume" in error.value.hint
    whole = [g for g in runs.read_generations(tmp_path / "run") if g.error is None]
    assert len(whole) == 200
    engine = ScriptedEngine(model)
    metrics = evaluate(questions, engine, FMT, PLAN, tmp_path / "run")
    assert metrics.complete == 500 and metrics.points[0].accuracy == 100
    assert len(engine.asked) == 2 * 300, "what was answered is not asked again"
    assert runs.read_config(tmp_path / "run").questions.n == 500


def test_metrics_name_what_they_were_measured_on(tmp_path: Path) -> None:
    metrics = evaluate(benchmark(2), ScriptedEngine(model), FMT, PLAN, tmp_path / "run")
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert metrics.benchmark_version == "1"
    assert metrics.questions_sha256 == stored["questions"]["sha256"]
