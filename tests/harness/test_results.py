"""A run in the layout of another harness, read back by that harness."""

import json

import pytest

from s1.cli import main
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadInput
from s1.evals.benchmarks import Benchmark, questions_hash
from s1.evals.run import Plan, evaluate
from s1.formats import FORMATS
from s1.harness.results import write_inspect, write_lm_eval
from s1.policy import BudgetPolicy
from s1.types import Question, Sampling, question_id


def talk(prefix):
    if "</think>" not in prefix:
        return " try more and more</think>"
    right = "Wait" in prefix or "q0" in prefix
    return f" Answer: {5 if right else 4}<|end|>"


@pytest.fixture
def run(tmp_path):
    """Five questions, three policies; without a wait only the first question is answered right."""
    questions = tuple(Question(question_id(f"q{i}"), f"q{i}", "5") for i in range(5))
    bench = Benchmark("toy", "integer", questions, "1", questions_hash(questions))
    policies = tuple(BudgetPolicy(max_answer=20, **p) for p in ({}, {"waits": 1}, {"max_thinking": 8}))
    plan = Plan(policies, samples=2, sampling=Sampling(temperature=1.0, seed=0))
    evaluate(bench, ScriptedEngine(talk), FORMATS["petri"], plan, tmp_path / "run", model="org/some model")
    return tmp_path / "run"


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_files_are_named_and_placed_as_the_harness_does(run, tmp_path):
    files = write_lm_eval(run, tmp_path / "out")
    assert {f.parent for f in files} == {tmp_path / "out" / "org__some model"}
    assert files[0].name.startswith("results_20") and files[0].suffix == ".json"
    tasks = ["toy_natural", "toy_wait_1", "toy_max_8"]
    assert [f.name.split("_20")[0] for f in files[1:]] == [f"samples_{t}" for t in tasks]
    before = {f: f.read_bytes() for f in files}
    assert {f: f.read_bytes() for f in write_lm_eval(run, tmp_path / "out")} == before


def test_accuracies_and_counts_are_those_of_the_run(run, tmp_path):
    file, *samples = write_lm_eval(run, tmp_path / "out")
    told = json.loads(file.read_text())
    metrics = {p["policy"]: p for p in json.loads((run / "metrics.json").read_text())["points"]}
    for task, label in (("toy_natural", "natural"), ("toy_wait_1", "wait 1"), ("toy_max_8", "max 8")):
        result = told["results"][task]
        assert 100 * result["exact_match,none"] == pytest.approx(metrics[label]["accuracy"])
        assert result["thinking_tokens,none"] == pytest.approx(metrics[label]["thinking_tokens"])
        assert told["n-samples"][task] == {"original": 5, "effective": 5}
    assert told["results"]["toy_natural"]["exact_match,none"] == pytest.approx(0.2)
    assert told["results"]["toy_natural"]["exact_match_stderr,none"] == pytest.approx(0.2)
    assert told["results"]["toy_wait_1"]["waits,none"] == 1
    assert told["results"]["toy_max_8"]["cut,none"] == 1
    rows = lines(samples[2])
    assert [r["doc_id"] for r in rows] == [0, 1, 2, 3, 4]
    assert rows[1]["resps"] == [["Answer : Answer: 4"] * 2] and rows[1]["exact_match"] == 0.0
    assert rows[1]["arguments"]["gen_args_0"]["arg_1"]["max_thinking"] == 8


def test_the_harness_reads_them(run, tmp_path):
    pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install "s1[lm-eval]"')
    from lm_eval.result_schema import SampleResult
    from lm_eval.utils import (
        get_latest_filename,
        get_results_filenames,
        get_sample_results_filenames,
        hash_string,
        make_table,
        sanitize_model_name,
    )

    files = [str(f) for f in write_lm_eval(run, tmp_path / "out")]
    assert get_results_filenames(files) == files[:1]
    assert sorted(get_sample_results_filenames(files)) == sorted(files[1:])
    assert get_latest_filename(files[:1]) == files[0]
    told = json.loads((tmp_path / files[0]).read_text())
    assert told["model_name_sanitized"] == sanitize_model_name("org/some model")
    table = make_table(told)
    assert "toy_wait_1" in table and "thinking_tokens" in table
    row = lines(tmp_path / files[1])[0]
    assert set(SampleResult.__annotations__) <= set(row)
    assert row["target_hash"] == hash_string(row["target"])
    assert row["prompt_hash"] == hash_string(row["arguments"]["gen_args_0"]["arg_0"])


def test_inspect_reads_its_logs(run, tmp_path):
    pytest.importorskip("inspect_ai", reason='needs Inspect AI: pip install "s1[inspect]"')
    from inspect_ai.log import list_eval_logs, read_eval_log

    files = write_inspect(run, tmp_path / "logs")
    assert len(list_eval_logs(str(tmp_path / "logs"))) == 3
    log = read_eval_log(str(files[1]))
    assert log.status == "success" and log.eval.task == "toy_wait_1" and log.eval.config.epochs == 2
    assert log.results.scores[0].metrics["accuracy"].value == 1.0
    assert len(log.samples) == 10
    sample = log.samples[0]
    assert sample.target == "5" and sample.scores["s1"].value == "C" and sample.scores["s1"].answer == "5"
    reasoning, text = sample.output.message.content
    assert "Wait" in reasoning.reasoning and text.text == "Answer: 5"
    assert sample.output.usage.reasoning_tokens == sample.metadata["thinking_tokens"]
    natural = read_eval_log(str(files[0]))
    assert natural.results.scores[0].metrics["accuracy"].value == pytest.approx(0.2)
    assert natural.results.scores[0].metrics["stderr"].value == pytest.approx(0.2)


def test_a_run_that_died_is_written_as_far_as_it_came(run, tmp_path):
    receipts = (run / "generations.jsonl").read_text().splitlines(keepends=True)
    (run / "generations.jsonl").write_text("".join(receipts[:6]))
    file, *samples = write_lm_eval(run, tmp_path / "out")
    told = json.loads(file.read_text())
    assert told["n-samples"]["toy_natural"] == {"original": 5, "effective": 1}
    assert [len(lines(s)) for s in samples] == [1, 1, 1]


def test_a_folder_that_is_no_graded_run_is_refused(run, tmp_path, capsys):
    with pytest.raises(BadInput, match="no run"):
        write_lm_eval(tmp_path, tmp_path / "out")
    (run / "grades.jsonl").unlink()
    with pytest.raises(BadInput, match="Grade the run"):
        write_lm_eval(run, tmp_path / "out")
    assert main(["export", str(run), "--to", "lm-eval", "--out", str(tmp_path / "out")]) == 2
    assert "Grade the run" in capsys.readouterr().err


def test_the_command_prints_the_files(run, tmp_path, capsys):
    assert main(["export", str(run), "--to", "lm-eval", "--out", str(tmp_path / "out")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
