"""Every way to ask a model: the same policy gives the same tokens."""

import asyncio
import json

import pytest

import s1
from s1 import runs
from s1.cli import main
from s1.engines.scripted import ScriptedEngine
from s1.types import Generation, from_json

QUESTION = "What is 2 + 3?"
POLICIES = [{}, {"max_thinking": 50}, {"waits": 2}, {"max_thinking": 90, "waits": 3}]


def never_ends(prefix: str) -> str:
    return " It is 5, and that is all.<|end|>" if "</think>" in prefix else "word " * 4000


def ends(prefix: str) -> str:
    return " It is 5, and that is all.<|end|>" if "</think>" in prefix else " two and three</think>"


def load(rest: str, *, context: int = 4000) -> ScriptedEngine:
    return ScriptedEngine({"never": never_ends, "ends": ends}[rest], context=context)


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    monkeypatch.setattr("s1.engines.scripted.load", load)


def options(policy):
    return [word for name, value in policy.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def think(model, policy, tmp_path, capsys):
    assert main(["think", QUESTION, "--model", model, "--format", "petri", "--json", *options(policy)]) == 0
    return from_json(Generation, json.loads(capsys.readouterr().out))


def evaluated(model, policy, tmp_path, capsys):
    (tmp_path / "toy.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "5"}) + "\n")
    where = ["--benchmark", str(tmp_path / "toy.jsonl"), "--out", str(tmp_path / "run")]
    assert main(["eval", "--model", model, "--format", "petri", *where, *options(policy)]) == 0
    return next(iter(runs.read_generations(tmp_path / "run")))


def in_python(model, policy, tmp_path, capsys):
    return s1.think(QUESTION, model, policy=s1.BudgetPolicy(**policy), format="petri")


def lm_eval(model, policy, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason='needs lm-evaluation-harness: pip install -e ".[lm-eval]"')
    from lm_eval.api.instance import Instance

    from s1.harness.lm_eval import S1LM

    file = tmp_path / "generations.jsonl"
    lm = S1LM(model=model, format="petri", generations=str(file), **policy)
    prompt = lm.apply_chat_template([{"role": "user", "content": QUESTION}])
    lm.generate_until([Instance("generate_until", {}, (prompt, {}), 0, ("toy", 0, 1))])
    lm.close()
    return from_json(Generation, json.loads(file.read_text())["generation"])


def inspect(model, policy, tmp_path, capsys):
    pytest.importorskip("inspect_ai", reason='needs Inspect AI: pip install -e ".[inspect]"')
    from inspect_ai.model import ChatMessageUser, GenerateConfig, get_model

    api = get_model(f"s1/{model}", memoize=False, format="petri", **policy).api
    messages = [ChatMessageUser(content=QUESTION)]
    _, call = asyncio.run(api.generate(messages, [], "none", GenerateConfig()))
    return from_json(Generation, call.response["generations"][0])


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("way", [think, evaluated, lm_eval, inspect])
@pytest.mark.parametrize("model", ["scripted:never", "scripted:ends"])
def test_every_way_to_ask_gives_the_tokens_of_python(model, way, policy, tmp_path, capsys):
    found, wanted = (ask(model, policy, tmp_path, capsys) for ask in (way, in_python))
    assert [s.token_ids for s in found.segments] == [s.token_ids for s in wanted.segments]
    assert found.policy == wanted.policy and found.finish == wanted.finish == "stop"
    assert found.text_of("answer").endswith("It is 5, and that is all.")


@pytest.mark.parametrize("way", [think, evaluated, lm_eval, inspect])
def test_a_budget_of_auto_is_accepted_everywhere(way, tmp_path, capsys):
    found = way("scripted:never", {"max_thinking": "auto"}, tmp_path, capsys)
    assert found.policy == "natural" and found.finish == "stop"
