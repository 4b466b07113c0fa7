"""The runner on the scripted engine: quick; the petri model is in tests/test_end_to_end.py."""

import asyncio
import json
from dataclasses import replace

import pytest

from s1 import runs
from s1.budget import Forcing
from s1.drive import drive
from s1.engines.scripted import ScriptedEngine
from s1.errors import BadConfig, EngineFailure, S1Error
from s1.evals.benchmarks import Benchmark
from s1.evals.metrics import read_metrics
from s1.evals.run import Plan, evaluate, grade_run, policies_of, policy_record
from s1.formats import FORMATS
from s1.grading import grade
from s1.methods import load_method
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Question, Sampling, from_json, question_id, to_json

FMT = FORMATS["petri"]


def model(prefix: str) -> str:
    """Thinks for a while, wants to stop, and is right only when it was made to wait."""
    if "</think>" in prefix:
        return (" 5" if "Wait" in prefix else " 4") + "<|end|>"
    return " try more and more</think>"


def benchmark(n: int = 6) -> Benchmark:
    questions = tuple(Question(question_id(f"q{i}"), f"q{i}", "5") for i in range(n))
    return Benchmark("toy", "exact", questions, "1")


def plan(**changes) -> Plan:
    return Plan(policies_of((4, 8), (1, 2), base=BudgetPolicy(max_answer=20)), **changes)


def test_metrics_come_from_what_was_generated(tmp_path):
    metrics = evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    accuracy = {p.label: p.accuracy for p in metrics.points}
    assert accuracy == {"max 4": 0, "max 8": 0, "natural": 0, "wait 1": 100, "wait 2": 100}
    assert [c.per_run for c in metrics.control] == [100]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == to_json(metrics)
    assert grade_run(tmp_path / "run") == metrics == read_metrics(tmp_path / "run")


def test_progress_is_shown_before_the_first_request_ends(tmp_path, monkeypatch):
    """A first answer may take minutes; a run that says nothing until then seems to hang."""
    monkeypatch.setattr("s1.evals.run.SHOW_SECONDS", 0.001)
    shown, seen = [], asyncio.Event()

    class Held(ScriptedEngine):
        async def stream(self, request):
            async for chunk in super().stream(request):
                yield chunk
                await seen.wait()

    def progress(state):
        shown.append((state.done, state.tokens))
        if state.tokens:
            seen.set()

    evaluate(benchmark(1), Held(model), FMT, plan(), tmp_path / "run", progress=progress)
    assert any(done == 0 and tokens > 0 for done, tokens in shown) and shown[-1][0] == 5
    assert [tokens for _, tokens in shown] == sorted(tokens for _, tokens in shown)


def test_every_generation_is_graded_once(tmp_path, monkeypatch):
    graded = []

    def counting(generation, *rest, **settings):
        graded.append(runs.key_of(generation))
        return grade(generation, *rest, **settings)

    monkeypatch.setattr("s1.evals.run.grade", counting)
    evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    assert len(graded) == len(set(graded)) == 6 * 5
    evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    assert len(graded) == 2 * 6 * 5, "a resumed run grades what an earlier call stored"


def test_a_policy_reads_back_with_its_names_bounds_and_settings(tmp_path):
    evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    stored = runs.read_config(tmp_path / "run").config.policies
    assert [p.key for p in stored] == [p.key for p in plan().policies]
    assert [(p.label, p.kind, p.max_thinking, p.min_thinking, p.waits) for p in stored] == [
        ("max 4", "budget", 4, None, 0), ("max 8", "budget", 8, None, 0), ("natural", "natural", None, None, 0),
        ("wait 1", "wait", None, None, 1), ("wait 2", "wait", None, None, 2),
    ]  # fmt: skip
    assert [from_json(BudgetPolicy, p.settings) for p in stored] == list(plan().policies)
    asked = policy_record(load_method("class-conditional:amount=short"))
    assert (asked.amount, asked.max_thinking) == ("short", None)
    assert policy_record(load_method("rejection:limit=64")).max_thinking == 64
    waiting = load_method("forcing", policy=BudgetPolicy(waits=2))
    assert (policy_record(waiting).waits, policy_record(waiting).wait) == (2, ("Wait",))


def test_votes_are_never_regraded_under_another_profile(tmp_path):
    from s1.cli import main

    voted = Plan(
        methods=(load_method("majority:n=2"), load_method("best-of-n:n=2")), sampling=Sampling(1.0, seed=1)
    )
    assert [policy_record(m).votes for m in voted.methods] == [True, False]
    specs = {"weighted": True, "shortest-majority": True, "short-m:m=1": False, "short-m:m=3": True, "rebase": True,
             "rebase:by=best": False, "rejection": False, "token-conditional": False, "forcing": False}  # fmt: skip
    assert {spec: load_method(spec).votes for spec in specs} == specs
    majority = replace(voted, methods=voted.methods[:1])
    evaluate(benchmark(), ScriptedEngine(model), FMT, majority, tmp_path / "run")
    before = (tmp_path / "run" / "grades.jsonl").read_bytes()
    with pytest.raises(BadConfig, match=r"majority of 2.*does not vote again"):
        grade_run(tmp_path / "run", "official")
    assert main(["report", str(tmp_path / "run"), "--grading", "official"]) == 2
    assert (tmp_path / "run" / "grades.jsonl").read_bytes() == before
    assert grade_run(tmp_path / "run", "strict").grading == "strict"
    plain = evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "plain")
    assert grade_run(tmp_path / "plain", "official").done == plain.done, "forcing is graded again as before"


def test_a_sweep_equals_separate_runs_token_for_token_and_decodes_little_more_than_the_longest(tmp_path):
    questions, policies = benchmark(), plan().policies
    together = ScriptedEngine(model)
    evaluate(questions, together, FMT, plan(), tmp_path / "run")
    found = {runs.key_of(g): g for g in runs.read_generations(tmp_path / "run")}
    for question in questions.questions:
        for policy in policies:
            alone = ScriptedEngine(model)
            encoded = encode_prompt(
                alone, FMT, policy, alone.render([{"role": "user", "content": question.text}])
            )
            single = asyncio.run(drive(Forcing(encoded), alone, question.id))
            assert found[runs.key_of(single)].segments == single.segments
    thinking = [a for a in together.asked if FMT.close not in together.decode(a.prefix)]
    assert len(thinking) == 3 * len(questions.questions)  # the natural end and two waits, once each


def test_a_run_that_died_is_resumed_and_ends_with_the_same_bytes(tmp_path):
    whole = tmp_path / "whole"
    evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), whole)
    calls = 0

    def dying(prefix: str) -> str:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise KeyboardInterrupt
        return model(prefix)

    with pytest.raises(BaseException):  # noqa: B017 - what a kill looks like from inside
        evaluate(benchmark(), ScriptedEngine(dying), FMT, plan(), tmp_path / "run", concurrency=2)
    before = len(runs.read_generations(tmp_path / "run"))
    assert 0 < before < 30
    evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    assert runs.digest(tmp_path / "run") == runs.digest(whole)


def test_a_server_that_breaks_is_recorded_and_too_many_failures_stop_the_run(tmp_path):
    def broken(prefix: str) -> str:
        raise EngineFailure("the server is gone")

    with pytest.raises(S1Error, match="the server is gone"):
        evaluate(benchmark(40), ScriptedEngine(broken), FMT, plan(), tmp_path / "run")
    assert runs.read_generations(tmp_path / "run")[0].error == "the server is gone"
    metrics = evaluate(benchmark(40), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    assert metrics.complete == 40


def test_a_question_that_does_not_fit_is_an_error_of_that_question_alone(tmp_path):
    long = Question("long", "x" * 5000, "5")
    questions = (*benchmark().questions, long)
    bench = Benchmark("toy", "exact", questions, "1")
    evaluate(bench, ScriptedEngine(model, context=1000), FMT, plan(), tmp_path / "run")
    failed = {g.question_id for g in runs.read_generations(tmp_path / "run") if g.error}
    assert failed == {"long"}


def test_failures_that_come_before_the_first_success_do_not_stop_a_run(tmp_path):
    """A broken stream ends sooner than a whole one: 10 of 80 fail, and they are the first."""

    class Uneven(ScriptedEngine):
        async def stream(self, request):
            number = int(self.decode(request.prefix).partition("q")[2].partition("<")[0])
            if number % 8 == 0:
                raise EngineFailure("cut off")
            await asyncio.sleep(0.2)
            async for chunk in super().stream(request):
                yield chunk

    one = Plan((BudgetPolicy(max_answer=20),))
    evaluate(benchmark(80), Uneven(model), FMT, one, tmp_path / "run")
    found = runs.read_generations(tmp_path / "run")
    assert sum(g.error is not None for g in found) == 10 and len(found) == 80


def test_samples_have_their_own_seeds_and_need_a_temperature(tmp_path):
    with pytest.raises(BadConfig, match="temperature"):
        plan(samples=2)
    sampled = plan(samples=3, sampling=Sampling(temperature=1.0, seed=7))
    engine = ScriptedEngine(model)
    evaluate(benchmark(), engine, FMT, sampled, tmp_path / "run")
    seeds = {g.seed for g in runs.read_generations(tmp_path / "run")}
    assert len(seeds) == 18
    assert {a.sampling.seed for a in engine.asked} == seeds


def test_another_plan_in_the_same_folder_is_refused(tmp_path):
    evaluate(benchmark(), ScriptedEngine(model), FMT, plan(), tmp_path / "run")
    with pytest.raises(BadConfig):
        evaluate(benchmark(), ScriptedEngine(model), FMT, Plan((BudgetPolicy(waits=3),)), tmp_path / "run")


def test_a_policy_that_is_there_twice_is_refused():
    with pytest.raises(BadConfig, match="twice"):
        Plan((BudgetPolicy(waits=1), BudgetPolicy(waits=1)))
