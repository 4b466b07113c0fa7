"""The methods on the model that ships, through the Hugging Face engine and the runner."""

import asyncio

import pytest

pytest.importorskip("torch", reason="the engine runs the model with torch; install s1[hf]")

from tiny_models import saved

from s1 import runs
from s1.evals.benchmarks import load_benchmark
from s1.evals.run import Plan, evaluate
from s1.formats import FORMATS
from s1.methods import load_method
from s1.petri.world import base_model
from s1.policy import BudgetPolicy
from s1.types import Sampling

SPECS = (
    "majority:n=2",
    "majority:n=4",
    "shortest-majority:n=4",
    "short-m:m=2,k=4",
    "rejection:limit=12,tries=3",
    "token-conditional:tokens=8,forced=true",
    "class-conditional:amount=short",
)


@pytest.mark.slow
def test_every_method_runs_in_one_folder_repeats_itself_and_counts_what_it_spends(tmp_path):
    base = BudgetPolicy(max_answer=12)
    limited = BudgetPolicy(max_thinking=40, max_answer=12)  # the base model does not always end
    methods = tuple(
        load_method(spec, policy=base if spec.startswith("rejection") else limited) for spec in SPECS
    )
    plan = Plan((limited,), sampling=Sampling(1.0, seed=5), methods=methods)
    benchmark = load_benchmark("petri", 6)
    engine = saved(base_model(), max_batch=32)
    try:
        evaluate(benchmark, engine, FORMATS["petri"], plan, tmp_path / "one")
        evaluate(benchmark, engine, FORMATS["petri"], plan, tmp_path / "two")
    finally:
        asyncio.run(engine.close())
    assert runs.digest(tmp_path / "one") == runs.digest(tmp_path / "two")
    found = {runs.key_of(g): g for g in runs.read_generations(tmp_path / "one")}
    assert len(found) == 6 * (1 + len(methods)) and all(g.error is None for g in found.values())
    key = {spec: method.key for spec, method in zip(SPECS, methods, strict=True)}
    spent = {
        spec: sum(found[q.id, 0, key[spec]].spent.thinking for q in benchmark.questions)
        for spec in ("majority:n=4", "short-m:m=2,k=4")
    }
    assert spent["short-m:m=2,k=4"] <= spent["majority:n=4"]
    for question in benchmark.questions:

        def of(spec, question=question):
            return found[question.id, 0, key.get(spec, spec)]

        plain, two, four = of(limited.key), of("majority:n=2"), of("majority:n=4")
        assert plain.thinking_tokens <= two.spent.thinking <= four.spent.thinking
        assert of("token-conditional:tokens=8,forced=true").thinking_tokens <= 8
        kept = of("rejection:limit=12,tries=3")
        assert kept.thinking_tokens <= 12 or (kept.spent.thinking == 39 and not kept.text_of("answer"))
