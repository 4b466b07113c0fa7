"""The contract on real vLLM: in process, and behind its own server. Run by `make test-vllm`."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM in its own environment: make test-vllm", allow_module_level=True)

from contract import CASES, PETRI, PROTOCOL, Case, generations, model_folder, same_ids  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.cli import main  # noqa: E402
from s1.clients.http import ServerClient  # noqa: E402
from s1.doctor import diagnose  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.engines.openai import OpenAIEngine  # noqa: E402
from s1.engines.openai_probe import ServerText  # noqa: E402
from s1.engines.tokenizer import tokenizer_at  # noqa: E402
from s1.errors import BadConfig, BadInput  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Continuation, Engine  # noqa: E402

PROMPT = "<|user|> poly at 5 mod 11 ; 0 : 1 ; 1 : 1 ; 2 : 10 ; 3 : 2 ; 4 : 4 ; 5 : 9<|assistant|><think>"
CLOCK = "clock 6 h 10 ; 1 : + 1 h 5 ; 2 : + 2 h 40 ; 3 : + 5 h 35"
"""A question on which the model thinks for a few tokens before it ends by itself."""
AUTO = (
    Case("auto", PETRI, BudgetPolicy(max_answer=12)),
    Case("auto, held to the end", PETRI, BudgetPolicy(min_thinking=900, wait=("",), max_answer=12)),
    Case("auto, waits", PETRI, BudgetPolicy(waits=3, max_answer=12)),
    Case("auto, official", PETRI, BudgetPolicy(waits=3, max_answer=12, profile="official")),
    Case("auto, grace", PETRI, BudgetPolicy(min_thinking=900, wait=("",), grace=20, max_answer=12)),
)
"""Thinking as long as the context allows."""
pytestmark = pytest.mark.timeout(900)  # the first test of each kind starts vLLM


@pytest.fixture(scope="session")
def folder() -> Path:
    return model_folder()


@pytest.fixture(scope="session")
def expected(folder):
    """The generations of the hf engine, in this environment."""
    reference = load_engine(str(folder), cache_bytes=1 << 26)
    found = generations(reference)
    asyncio.run(reference.close())
    return found


@pytest.fixture
def in_process(vllm_engine) -> Engine:
    return vllm_engine


@pytest.fixture(scope="session")
def server(vllm_server) -> str:
    return vllm_server.url


@pytest.fixture(scope="session")
def behind_http(server) -> Iterator[Engine]:
    engine = load_engine(f"openai:{server}")
    yield engine
    asyncio.run(engine.close())


@pytest.fixture(params=["in_process", "behind_http"])
def engine(request) -> Engine:
    return request.getfixturevalue(request.param)


def test_the_same_policies_give_the_same_ids_as_hf(engine, expected, folder):
    found = generations(engine)
    same_ids(expected, found, folder)
    assert all(g.exact for g in found.values())


def test_a_budget_of_all_that_the_context_leaves_gives_the_same_ids_as_hf(engine, folder):
    reference = load_engine(str(folder), cache_bytes=1 << 26)
    expected = generations(reference, AUTO)
    asyncio.run(reference.close())
    same_ids(expected, generations(engine, AUTO), folder)
    assert any(g.cut for g in expected.values()) and any(g.waits == 3 for g in expected.values())


def test_the_doctor_proves_forcing(engine):
    report = asyncio.run(diagnose(engine, "petri", question=CLOCK))
    assert report.safe, [check for check in report.checks if check.level == "problem"]
    levels = {check.name: check.level for check in report.checks}
    assert {levels[n] for n in ("maximum", "wait", "minimum", "repeatable", "pad token")} == {"ok"}
    assert levels.get("beam search") == ("note" if engine.name.startswith("openai:") else None)
    assert "padded ids" in next(c.found for c in report.checks if c.name == "vocabulary")
    assert all(probe.generation.exact for probe in report.probes)


@pytest.mark.parametrize("check", PROTOCOL, ids=lambda check: check.__name__.removeprefix("check_"))
def test_the_engine_follows_the_protocol(check, engine):
    check(engine, engine.encode(PROMPT))


def test_the_server_was_found_out(behind_http, folder):
    found = behind_http.server
    assert (found.model, found.context, found.is_vllm, found.exact) == ("petri", 1024, True, True)
    assert found.logit_bias and found.plugin and found.drops_beam_budgets
    assert behind_http.folder == folder and behind_http.eos_texts == ("<|end|>",)


LESS = {
    "the server's tokenizer": {},
    "bans by bias": {"supported": frozenset({"ignore_eos", "stop_token_ids"})},
    "text": {"ids_in": False, "ids_out": False, "plugin": False},
}


@pytest.mark.parametrize("only", LESS)
def test_a_server_that_can_less_gives_the_same_ids(only, server, behind_http, expected, folder):
    """The other ways of the openai engine, against the same real server."""
    client = ServerClient(server, "", timeout=60, retries=0, connections=32)
    local = only != "the server's tokenizer"
    text = tokenizer_at(str(folder)) if local else ServerText(client, "petri", ())
    engine = OpenAIEngine(client, replace(behind_http.server, **LESS[only]), text)
    cases = [case for case in CASES if local or case.name != "a phrase"]  # refused without the tokenizer
    found = generations(engine, cases)
    asyncio.run(engine.close())
    same_ids({name: expected[name] for name in found}, found, folder)
    assert all(g.exact == (only != "text") for g in found.values())


def metric(server: str, name: str) -> float:
    with urllib.request.urlopen(server.removesuffix("/v1") + "/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_leaving_a_stream_cancels_its_request_in_the_server(server, behind_http):
    """Without stops: a request that the server is not told to end, ends at its limit, and so would each of these.

    One at a time, because a busy server hears of it late; a loaded machine gets a few tries.
    """

    def limits_reached() -> float:
        return metric(server, 'vllm:request_success_total{engine="0",finished_reason="length"')

    def cancelled() -> bool:
        before = limits_reached(), metric(server, "vllm:generation_tokens_total")

        async def leave() -> None:
            stream = behind_http.stream(Continuation(behind_http.encode(PROMPT), 900))
            first = await anext(stream)
            assert first.ids and first.finish is None
            await stream.aclose()
            # Within the loop: when that is closed, its streams end anyway. The server counts after it has sent.
            await asyncio.to_thread(
                wait_until, lambda: metric(server, "vllm:generation_tokens_total") > before[1]
            )
            await asyncio.to_thread(wait_until, lambda: metric(server, "vllm:num_requests_running") == 0)

        asyncio.run(leave())
        return (
            limits_reached() == before[0] and metric(server, "vllm:generation_tokens_total") < before[1] + 900
        )

    wait_until(lambda: metric(server, "vllm:num_requests_running") == 0)
    assert any(cancelled() for _ in range(10)), "the server decoded to the limit, ten times"


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.1)


def test_a_continuation_finds_its_prefix_in_the_cache(server, behind_http):
    prefix = behind_http.encode(PROMPT) * 12
    before = metric(server, "vllm:prefix_cache_hits_total")
    ids = [i for c in collect(behind_http, Continuation(prefix, 8)) for i in c.ids]
    collect(behind_http, Continuation(prefix + tuple(ids), 8))
    # The server counts after it has sent.
    wait_until(lambda: metric(server, "vllm:prefix_cache_hits_total") - before >= 128)


def test_the_commands_work_against_a_server(server, folder, tmp_path, capsys):
    model = f"openai:{server}"
    more = ["--format", "petri", "--max-thinking", "40", "--max-answer", "12"]
    assert main(["think", CLOCK, "--model", model, *more, "--json"]) == 0
    generation = json.loads(capsys.readouterr().out)
    assert generation["exact"] and 1 < generation["thinking_tokens"] <= 40 and generation["error"] is None
    arguments = ["eval", "--benchmark", "petri", "--limit", "6", "--waits", "2", *more]
    for name, spec in (("a", model), ("b", str(folder))):
        out = str(tmp_path / name)
        assert main([*arguments, "--model", spec, "--out", out]) == 0
    ours, theirs = (
        {
            (r["question_id"], r["policy"]): r["segments"]
            for r in map(json.loads, (tmp_path / name / "generations.jsonl").read_text().splitlines())
        }
        for name in ("a", "b")
    )
    assert len(ours) == 6 and ours == theirs


ALONE = """
import asyncio, json, sys
from s1.engines import load_engine
from s1.types import Continuation

async def go(engine):
    print(json.dumps([i async for chunk in engine.stream(Continuation(tuple(ids), 40)) for i in chunk.ids]))
    await engine.close()

if __name__ == "__main__":
    spec, options, ids = sys.argv[1], *map(json.loads, sys.argv[2:])
    asyncio.run(go(load_engine(spec + "?eager=true&max_batch=8", **options)))
"""


PARALLEL = [pytest.param({f"{kind}_parallel_size": 2}, marks=pytest.mark.slow) for kind in ("tensor", "data")]


@pytest.mark.parametrize("options", [{}, *PARALLEL], ids=str)
def test_a_script_of_its_own_prints_its_result_alone_whatever_the_parallel_sizes(
    options, in_process, folder, tmp_path
):
    """vLLM's log stays out of standard output, and its processes end without a complaint."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if options and len(cores) < 2:
        pytest.skip("parallel engines need two cores")
    environment = dict(os.environ)
    if options.get("tensor_parallel_size"):  # "auto" wants a NUMA node for each part
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(map(str, cores))
    prefix = in_process.encode(PROMPT)
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, "alone.py", f"vllm:{folder}", json.dumps(options), json.dumps(prefix)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [
        i for c in collect(in_process, Continuation(prefix, 40)) for i in c.ids
    ]
    assert "Exception ignored" not in done.stderr


def collect(engine, request):
    async def all_of():
        return [chunk async for chunk in engine.stream(request)]

    return asyncio.run(all_of())


def test_messages_of_the_server_reach_the_user(behind_http, server):
    with pytest.raises(BadConfig, match="does not serve 'other'.*petri"):
        load_engine(f"openai:{server}?model=other")
    engine = load_engine(f"openai:{server}")
    engine.context = 5000  # as if the server had reported a wrong one
    generation = asyncio.run(
        drive(Forcing(encode_prompt(engine, FORMATS["petri"], BudgetPolicy(max_thinking=4000), "1")), engine)
    )
    asyncio.run(engine.close())
    assert generation.error is not None and "400" in generation.error and "1024" in generation.error


def test_unknown_models_and_options_are_refused(folder, tmp_path):
    with pytest.raises(BadInput, match="no such folder"):
        load_engine("vllm:/no/such/folder")
    with pytest.raises(BadInput, match="config.json"):
        load_engine(f"vllm:{tmp_path}")
    with pytest.raises(BadConfig, match="Did you mean 'tensor_parallel_size'"):
        load_engine(f"vllm:{folder}", tensor_paralel_size=2)
    with pytest.raises(BadConfig, match="Did you mean 'tensor_parallel_size'"):
        load_engine(f"vllm:{folder}?tensor_paralel_size=2")


def test_options_reach_vllm(folder, monkeypatch):
    from vllm.v1.engine.async_llm import AsyncLLM

    seen = []

    def refuse(arguments):
        seen.append(arguments)
        raise ValueError("not today")

    monkeypatch.setattr(AsyncLLM, "from_engine_args", refuse)
    options = "tensor_parallel_size=2&data_parallel_size=3&context=512&max_batch=8&memory=0.5&eager=true"
    with pytest.raises(BadConfig, match="not today"):
        load_engine(f"vllm:{folder}?{options}")
    arguments = seen[0]
    assert (arguments.tensor_parallel_size, arguments.data_parallel_size) == (2, 3)
    assert (arguments.max_model_len, arguments.max_num_seqs, arguments.dtype) == (512, 8, "float32")
    assert arguments.gpu_memory_utilization == 0.5 and arguments.enforce_eager
    assert arguments.enable_prefix_caching


def test_a_server_that_dies_is_reported_and_nothing_is_lost(behind_http, vllm_server):
    """The last test of this file: it kills the server."""
    policy = BudgetPolicy(max_thinking=800, waits=200)
    forcing = Forcing(encode_prompt(behind_http, FORMATS["petri"], policy, "<|user|> 1<|assistant|>"))

    def kill(seen: Forcing) -> None:
        if len(seen.thinking) > 20 and vllm_server.process.poll() is None:
            os.killpg(vllm_server.process.pid, signal.SIGKILL)
            vllm_server.process.wait(60)

    generation = asyncio.run(drive(forcing, behind_http, watch=kill))
    assert generation.error is not None and (
        "in the middle" in generation.error or "cannot be reached" in generation.error
    )
    assert 20 < generation.thinking_tokens < 800 and generation.finish is None
