"""`s1 serve` in front of a real vLLM server, and with vLLM in its process. Run by `make test-vllm`."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM in its own environment: make test-vllm", allow_module_level=True)

import asyncio  # noqa: E402

import serve_vllm  # noqa: E402
from serving import commands  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.formats import FORMATS  # noqa: E402
from s1.petri.world import base_model  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.serve.body_parts import Tool, ToolFunction  # noqa: E402
from s1.serve.tools import call_schema  # noqa: E402
from s1.types import Generation  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test of each kind starts vLLM
QUESTION = "poly at 5 mod 11 ; 0 : 1 ; 1 : 1 ; 2 : 10 ; 3 : 2 ; 4 : 4 ; 5 : 9"
ASK = {"messages": [{"role": "user", "content": QUESTION}], "max_answer": 12}


COMPACT = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
"""Where blanks are allowed between the parts of an object, the small model writes nothing else."""


@pytest.fixture(scope="module", params=["plain", "plug-in", "in process"])
def server(request, tmp_path_factory) -> Iterator[str]:
    """The address of `s1 serve`: before a vLLM server without and with s1's plug-in, and with vLLM inside."""
    started = commands()
    start = next(started)
    if request.param == "in process":
        yield start("--model", f"vllm:{base_model()}?eager=true&max_batch=64", "--format", "petri")[0]
    else:
        options = ["--additional-config", json.dumps({"s1_format": "petri"})] * (request.param == "plug-in")
        options += ["--structured-outputs-config", COMPACT]
        with serve_vllm.serve(base_model(), tmp_path_factory.mktemp("vllm"), *options) as upstream:
            yield start("--upstream", upstream.url, "--format", "petri")[0]
    next(started, None)


def ask(url: str, **body: Any) -> dict[str, Any]:
    got = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"receipt": True} | body, timeout=120)
    assert got.status_code == 200, got.text
    return got.json()["choices"][0]


@pytest.fixture(scope="module")
def expected() -> dict[str, Generation]:
    """What the machine gives on the hf engine."""
    engine = load_engine(str(base_model()), cache_bytes=1 << 26)

    async def go() -> dict[str, Generation]:
        made = {}
        for name, policy in POLICIES.items():
            prompt = engine.render(ASK["messages"])
            encoded = encode_prompt(engine, FORMATS["petri"], BudgetPolicy(**policy, max_answer=12), prompt)
            made[name] = await drive(Forcing(encoded), engine)
        await engine.close()
        return made

    return asyncio.run(go())


POLICIES: dict[str, dict[str, Any]] = {
    "no thinking": {"max_thinking": 0},
    "a limit": {"max_thinking": 20},
    "waits": {"max_thinking": 70, "waits": 2},
}


@pytest.mark.parametrize("name", POLICIES)
def test_the_dial_gives_what_the_machine_gives(server, expected, name) -> None:
    receipt = ask(server, **POLICIES[name])["receipt"]
    wanted = [(s.phase, s.by, s.text) for s in expected[name].segments[1:]]
    assert [(s["phase"], s["by"], s["text"]) for s in receipt["spans"]] == wanted
    assert receipt["exact"] and receipt["cut_by"] == expected[name].cut_by


def test_a_stream_says_what_the_whole_reply_says_and_can_be_turned(server) -> None:
    whole = ask(server, max_thinking=30)
    asked = ASK | {"stream": True, "receipt": True}
    texts, receipt = stream(server, asked | {"max_thinking": 30})
    assert texts == (whole["message"]["reasoning"], whole["message"]["content"])
    long = {"min_thinking": 800, "wait": " Wait"}
    for _ in range(5):  # a stream that is over before the turn reaches the server proves nothing
        status, (_, receipt) = stream_turned(server, asked | long, {"answer_now": True})
        if status == 200:
            break
        print("A stream was over before it could be turned:", receipt)
    assert receipt["cut_by"] == "answer_now" and receipt["thinking_tokens"] < 800 and receipt["answer_tokens"]


def stream(url: str, body: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Thinking and answer of a stream, and the receipt."""
    return stream_turned(url, body, None)[1]


def stream_turned(url: str, body: dict[str, Any], turn: dict[str, Any] | None) -> tuple[int, Any]:
    """The status of a turn at the first thinking of a stream, and what `stream` returns."""
    reasoning = content = ""
    receipt: dict[str, Any] = {}
    status = 0
    with (
        httpx.Client(base_url=url, timeout=120) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as got,
    ):
        for line in got.iter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                [choice] = chunk["choices"]
                reasoning += choice["delta"].get("reasoning", "")
                content += choice["delta"].get("content") or ""
                receipt = choice.get("receipt", receipt)
                if turn and reasoning and not status:
                    status = client.post(f"/v1/thinking/{chunk['id']}", json=turn).status_code
    return status, ((reasoning, content), receipt)


def test_what_vllm_started_ends_with_the_command() -> None:
    import psutil  # vLLM brings it

    started = commands()
    _, process = next(started)("--model", f"vllm:{base_model()}?eager=true", "--format", "petri")
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    process.terminate()
    _, alive = psutil.wait_procs(children, timeout=60)
    next(started, None)
    assert alive == []


VALUES = [{"value": n, "sure": n % 2 == 0} for n in range(30, 60)]
SCHEMA = {"enum": VALUES}
"""Of an object with free blanks the small model writes nothing but blanks."""
IN_JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
ENDS = {
    "a cut": {"max_thinking": 6, "min_thinking": 6},
    "a natural end": {},
    "no thinking": {"max_thinking": 0},
}


@pytest.mark.parametrize("name", ENDS)
def test_an_answer_follows_its_schema_however_the_thinking_ended(server, name) -> None:
    asked = ENDS[name] | IN_JSON | {"max_answer": 60}
    got = ask(server, **asked)
    assert json.loads(got["message"]["content"]) in VALUES and got["finish_reason"] == "stop"
    assert got["receipt"]["cut"] == (name != "a natural end") and got["receipt"]["exact"]
    plain = ask(server, **ENDS[name], max_answer=12)
    assert got["message"]["reasoning"] == plain["message"]["reasoning"]
    texts, _ = stream(server, ASK | asked | {"stream": True, "receipt": True})
    assert texts == (got["message"]["reasoning"], got["message"]["content"])
    for seed in range(3):
        drawn = ask(server, **asked, temperature=1.0, seed=seed)
        assert json.loads(drawn["message"]["content"]) in VALUES


def test_a_schema_that_vllm_refuses_is_a_400(server) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nonsense"}}}
    got = httpx.post(
        f"{server}/v1/chat/completions", json=ASK | {"max_answer": 60, "response_format": wrong}, timeout=120
    )
    assert got.status_code == 400 and "schema" in got.json()["error"]["message"], got.text
    assert json.loads(ask(server, **IN_JSON, max_thinking=0, max_answer=60)["message"]["content"]) in VALUES


def test_logprobs_are_those_of_the_model(server) -> None:
    """Raw ones, so they are the same at another temperature and under another sampler."""
    asked = {"max_thinking": 0, "logprobs": True, "top_logprobs": 3}
    greedy = ask(server, **asked)
    tokens = greedy["logprobs"]["content"]
    drawn = "".join(s["text"] for s in greedy["receipt"]["spans"] if s["phase"] == "answer")
    assert "".join(t["token"] for t in tokens) == drawn and tokens
    engine = load_engine(str(base_model()), cache_bytes=1 << 26)
    prompt = engine.render(ASK["messages"])
    policy = BudgetPolicy(max_thinking=0, max_answer=12)
    encoded = replace(encode_prompt(engine, FORMATS["petri"], policy, prompt), logprobs=3)
    forcing = Forcing(encoded)
    asyncio.run(drive(forcing, engine))
    assert [t["logprob"] for t in tokens] == pytest.approx([e.logprob for e in forcing.logprobs], abs=1e-3)
    for token, each in zip(tokens, forcing.logprobs, strict=True):
        assert [t["logprob"] for t in token["top_logprobs"]] == pytest.approx(
            [p for _, p in each.top], abs=1e-2
        )
    asyncio.run(engine.close())
    hot = ask(server, **asked, temperature=1.5, seed=1)["logprobs"]["content"]
    assert [t["logprob"] for t in hot[0]["top_logprobs"]] == pytest.approx(
        [t["logprob"] for t in tokens[0]["top_logprobs"]], abs=1e-3
    )


@pytest.mark.parametrize("budget", ENDS.values(), ids=list(ENDS))
def test_the_schema_of_a_call_makes_a_call(server, budget, request) -> None:
    if request.node.callspec.params["server"] == "in process":
        pytest.skip("the small model writes blanks without end where the grammar allows them")
    parameters = {
        "type": "object",
        "properties": {"n": {"$ref": "#/$defs/N"}},
        "required": ["n"],
        "$defs": {"N": {"enum": [1, 2]}},
    }
    tools = [
        Tool(type="function", function=ToolFunction(name=name, parameters=parameters))
        for name in ("add", "sub")
    ]
    for offered in (tools, tools[1:]):
        shape = {"name": "call", "schema": json.loads(call_schema(offered))}
        got = ask(
            server, **budget, max_answer=60, response_format={"type": "json_schema", "json_schema": shape}
        )
        call = json.loads(got["message"]["content"])
        assert call["name"] in {tool.function.name for tool in offered} and call["arguments"]["n"] in (1, 2)
