"""The whole path with real parts: the shipped base, a model trained here, the command line.

Interruptions are in tests/reliability/test_kills.py and tests/train/test_exact_resume.py. What the trained
model writes depends on the processor, so no test depends on it.
"""

import asyncio
import json
from pathlib import Path

import pytest
from forked import s1
from tiny_models import saved

from s1 import runs
from s1.budget import Forcing
from s1.drive import drive
from s1.evals.run import Plan, evaluate
from s1.formats import choose_format
from s1.petri import world
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Generation, from_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # minutes, where others use the machine as well


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """A folder with runs/demo, made by the real command."""
    folder = tmp_path_factory.mktemp("demo")
    done = s1("demo", "--quick", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "Control 100.0 %" in done.stdout
    return folder


def test_the_demo_leaves_numbers_figure_page_model_and_ledger(demo):
    run = demo / "runs" / "demo"
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"points", "control", "scaling_per_doubling", "performance"} <= set(metrics)
    assert all(
        {"key", "label", "n", "accuracy", "low", "high", "thinking_tokens"} <= set(p)
        for p in metrics["points"]
    )
    assert [c["per_run"] for c in metrics["control"]] == [100]
    assert [p["n"] for p in metrics["points"]] == [60] * 8
    for name in ("scaling.png", "scaling.svg", "index.html", "model/model.safetensors", "model/thinking.json",
                 "curated/ledger.json", "curated/dataset.parquet", "curated/rejected.jsonl"):  # fmt: skip
        assert (run / name).is_file(), name
    limits = {p.key: p.max_thinking for p in runs.read_config(run).config.policies}
    for generation in runs.read_generations(run):
        limit = limits[generation.policy]
        assert generation.error is None
        assert limit is None or generation.thinking_tokens <= limit


def test_a_second_demo_call_does_nothing_twice(demo):
    run = demo / "runs" / "demo"
    before = {f: f.stat().st_mtime_ns for f in (run / "curated/ledger.json", run / "model/model.safetensors")}
    digest = runs.digest(run)
    done = s1("demo", "--quick", folder=demo)
    assert done.returncode == 0, done.stderr
    assert {f: f.stat().st_mtime_ns for f in before} == before and runs.digest(run) == digest


def test_think_uses_the_model_that_ships_and_the_budget_binds_on_the_demo_model(demo):
    def think(*more: object) -> Generation:
        done = s1("think", world.questions(1)[0].text, "--json", *more, folder=demo)
        assert done.returncode == 0, done.stderr
        return from_json(Generation, json.loads(done.stdout))

    assert think("--waits", 1).segments == think("--waits", 1, "--model", "petri").segments
    for limit, waits in ((12, 0), (300, 2)):
        policy = ["--max-thinking", limit, "--waits", waits, "--model", "runs/demo/model"]
        generation = think(*policy)
        assert generation.thinking_tokens <= limit
        forced = [s.text.strip() for s in generation.segments if (s.phase, s.by) == ("thinking", "forced")]
        assert forced == ["Wait"] * generation.waits and generation.waits <= waits
        # It ends by itself after the last wait only, or where no other has room.
        assert generation.waits == waits or generation.cut or generation.thinking_tokens >= limit - 1
        shown = s1("think", world.questions(1)[0].text, *policy, folder=demo)
        assert shown.returncode == 0 and shown.stderr.count("Wait]") >= generation.waits
        assert f"[{generation.thinking_tokens} thinking tokens, {generation.waits} waits, " in shown.stderr
        said = "".join(s.text for s in generation.segments if (s.phase, s.by) == ("answer", "model"))
        assert shown.stdout.strip() == said.strip()


def test_a_shared_prefix_equals_separate_runs_token_for_token(demo, tmp_path):
    engine = saved(demo / "runs" / "demo" / "model", max_batch=64)
    fmt = choose_format(engine)
    policies = [BudgetPolicy(max_answer=12, **p) for p in
                ({"max_thinking": 16}, {"max_thinking": 64}, {}, {"waits": 1}, {"waits": 4})]  # fmt: skip
    evaluate(world.benchmark(12), engine, fmt, Plan(tuple(policies)), tmp_path / "run")
    found = {runs.key_of(g): g for g in runs.read_generations(tmp_path / "run")}

    async def alone():
        requests = []
        for q in world.questions(12):
            prompt = engine.render([{"role": "user", "content": q.text}])
            requests += [
                drive(Forcing(encode_prompt(engine, fmt, p, prompt)), engine, q.id) for p in policies
            ]
        try:
            return await asyncio.gather(*requests)
        finally:
            await engine.close()

    singles = asyncio.run(alone())
    assert len(singles) == len(found) == 12 * len(policies)
    for single in singles:
        assert found[runs.key_of(single)].segments == single.segments


def test_eval_runs_on_real_questions(demo, shared_data):
    done = s1("eval", "--benchmark", shared_data / "benchmarks" / "math500.jsonl", "--limit", 8, "--max-thinking", 32,
              "--max-answer", 12, "--json", folder=demo)  # fmt: skip
    assert done.returncode == 0, done.stderr
    point = json.loads(done.stdout)["points"][0]
    assert point["n"] == 8 == sum(point["outcomes"].values()) and point["outcomes"]["error"] == 0
    assert 0 <= point["low"] <= point["accuracy"] <= point["high"] <= 100 and point["thinking_tokens"] <= 32


def test_curate_on_real_traces_leaves_ledger_and_dataset(demo, shared_data):
    done = s1("curate", shared_data / "traces" / "misguided_attention.parquet", "--out", "real", "--n", 30,
              "--tokenizer", shared_data / "tokenizers" / "qwen2.5-instruct",
              "--against", shared_data / "benchmarks" / "math500.jsonl", folder=demo)  # fmt: skip
    assert done.returncode == 0, done.stderr
    ledger = json.loads((demo / "real" / "ledger.json").read_text())
    assert ledger["stages"][0]["in"] == 2024
    from datasets import load_dataset

    rows = load_dataset("parquet", data_files=str(demo / "real" / "dataset.parquet"), split="train")
    assert len(rows) == 30 and "question" in rows.column_names
