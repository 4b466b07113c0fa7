"""The plug-in in a real vLLM server, found by its entry point: `make test-vllm` runs this.

One server of tests/conftest.py: on its command line, only the format of the petri model and the refusal of beam search
are about the plug-in, which is beside vLLM's own reasoning parser and budget.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

if importlib.util.find_spec("vllm") is None:
    pytest.skip("needs vLLM in its own environment: make test-vllm", allow_module_level=True)

import openai  # noqa: E402
from forced_runs import PETRI, QUESTIONS, SHORT, Rounds, run_all, without_times  # noqa: E402

from s1.budget import Forcing  # noqa: E402
from s1.doctor import diagnose  # noqa: E402
from s1.drive import drive  # noqa: E402
from s1.engines import load_engine  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.prompt import encode_prompt  # noqa: E402
from s1.types import Engine, Generation, Sampling  # noqa: E402

pytestmark = pytest.mark.timeout(900)  # the first test starts vLLM


@pytest.fixture(scope="module")
def server(vllm_server_with_parser) -> str:
    return vllm_server_with_parser.url


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def engine(server) -> Iterator[Engine]:
    made = load_engine(f"openai:{server}")
    yield made
    asyncio.run(made.close())


def ask(client: openai.OpenAI, **options: Any) -> Any:
    """A completion with the thinking open, greedy, token ids shown."""
    prompt = f"<|user|> {SHORT}<|assistant|><think>"
    xargs = options.pop("xargs", {})
    more = {
        "vllm_xargs": xargs,
        "return_token_ids": True,
        "skip_special_tokens": False,
        **options.pop("more", {}),
    }
    settings = {"max_tokens": 120, "temperature": 0, "prompt": prompt, **options}
    return client.completions.create(model="petri", extra_body=more, **settings)


def text_of(reply: Any) -> str:
    return str(reply.choices[0].text)


def test_one_request_has_the_record_of_forcing_from_outside(engine) -> None:
    wanted, found = run_all(engine, Rounds), run_all(engine, Forcing)
    assert engine.plugin is True
    different = [
        f"{name}:\n {wanted[name].segments}\n {found[name].segments} {found[name].error}"
        for name in wanted
        if without_times(wanted[name]) != without_times(found[name])
    ]
    assert not different, f"{len(different)} of {len(wanted)}\n" + "\n".join(different)
    assert all(g.error is None and g.exact for g in found.values())


def test_a_policy_is_one_request_and_a_seed_repeats_it(engine, server) -> None:
    prompt = engine.render([{"role": "user", "content": SHORT}])

    def driven(policy: BudgetPolicy, sampling: Sampling) -> Generation:
        encoded = encode_prompt(engine, PETRI, policy, prompt)
        return without_times(asyncio.run(drive(Forcing(encoded, sampling), engine)))

    def requests_for_one() -> float:
        before = requests_of(server)
        whole = driven(BudgetPolicy(max_thinking=300, waits=2, max_answer=30), Sampling())
        assert (whole.waits, whole.cut, whole.error) == (2, False, None)
        return requests_of(server) - before

    # One, and at most one token to see which end was drawn. The server counts those of other tests late.
    assert any(requests_for_one() <= 2 for _ in range(3))

    policy = BudgetPolicy(max_thinking=60, waits=3, max_answer=12)
    samples = [driven(policy, Sampling(0.9, top_p=0.9, seed=seed)) for seed in (5, 5, 6, 7, 8)]
    assert samples[0] == samples[1] and len({each.segments for each in samples}) > 1
    assert all(each.error is None for each in samples) and any(each.waits for each in samples)


def requests_of(server: str) -> float:
    with urllib.request.urlopen(server.removesuffix("/v1") + "/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    name = "vllm:request_success_total"
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


BAD = {
    "max_thinking": [-1, 10**12, "abc", 1.5, 118, [3]],
    "min_thinking": [-1, 10**12, "x", 119],
    "waits": [-1, "many", 10**12],
    "wait": ["a</think>b", "<|end|>", [], 7, ["a"] * 9, " so" * 100],
    "cue": ["loud", 3],
    "thinking_format": ["nope", "s1", "{", '{"name": "x"}', 4],
}


@pytest.mark.parametrize("field", BAD)
def test_what_cannot_be_honoured_is_refused_by_name_and_the_server_lives(client, field) -> None:
    for value in BAD[field]:
        with pytest.raises(openai.BadRequestError, match=field) as caught:
            ask(client, xargs={field: value})
        assert len(str(caught.value)) < 600 and "Traceback" not in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="min_thinking 9 is above max_thinking 5"):
        ask(client, xargs={"max_thinking": 5, "min_thinking": 9})
    assert text_of(ask(client, xargs={"max_thinking": 3})).split("</think>")[0].count(" ") == 3


def test_what_cannot_be_combined_is_refused(client) -> None:
    for name, more in (
        ("thinking_token_budget", {"thinking_token_budget": 5}),
        ("structured_outputs", {"structured_outputs": {"regex": "a+"}}),
        ("presence_penalty", {"presence_penalty": 0.5}),
        ("repetition_penalty", {"repetition_penalty": 1.2}),
        ("use_beam_search", {"use_beam_search": True}),
        ("structured_outputs", {"response_format": {"type": "json_object"}}),
    ):
        with pytest.raises(openai.BadRequestError, match=name) as caught:
            ask(client, xargs={"waits": 1}, more=more)
        assert "waits" in str(caught.value)
    with pytest.raises(openai.BadRequestError, match="s1_plan"):
        ask(client, xargs={"s1_plan": "forged"})


def test_chat_too_refuses_what_cannot_be_combined_and_beams_without_a_budget_are_served(client) -> None:
    settings: Any = {"model": "petri", "messages": [{"role": "user", "content": SHORT}], "max_tokens": 20}
    tool = {
        "type": "function",
        "function": {"name": "add", "parameters": {"type": "object", "properties": {}}},
    }
    for name, more, options in (
        ("use_beam_search", {"use_beam_search": True}, {}),
        ("structured_outputs", {}, {"response_format": {"type": "json_object"}}),
        ("structured_outputs", {}, {"tools": [tool], "tool_choice": "required"}),
    ):
        body = {"vllm_xargs": {"max_thinking": 5}, **more}
        with pytest.raises(openai.BadRequestError, match=name):
            client.chat.completions.create(**settings, **options, extra_body=body)
    for xargs in ({}, {"vllm_xargs": {"session_id": "a"}}):
        found = ask(client, n=2, max_tokens=8, more={"use_beam_search": True, **xargs})
        assert len(found.choices) == 2 and all(choice.text for choice in found.choices)


def test_requests_with_vllm_s_own_budget_or_none_are_left_alone(client) -> None:
    plain = text_of(ask(client))
    assert "</think>" not in plain
    own = text_of(ask(client, more={"thinking_token_budget": 5}))
    assert own.startswith(plain[:10]) and "</think>" in own
    assert text_of(ask(client)) == plain


def test_chat_opens_the_thinking_that_the_template_leaves_closed(client) -> None:
    messages: Any = [{"role": "user", "content": SHORT}]
    body = {"vllm_xargs": {"max_thinking": 6}, "return_token_ids": True, "skip_special_tokens": False}
    settings: Any = {"model": "petri", "messages": messages, "temperature": 0, "max_tokens": 60}
    whole = client.chat.completions.create(**settings, extra_body=body)
    ids = whole.choices[0].model_extra["token_ids"]
    wanted = ask(client, xargs={"max_thinking": 6}, max_tokens=59).choices[0].model_extra["token_ids"]
    assert ids[1:] == wanted
    message = whole.choices[0].message
    assert message.content and "Answer" in message.content, "the reasoning parser divides it"
    assert len(message.model_extra["reasoning"].split()) == 6
    pieces = list(client.chat.completions.create(**settings, extra_body=body, stream=True))
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == message.content


def test_streams_samples_and_curl_get_the_same(client, server) -> None:
    xargs = {"waits": 2, "wait": ["Wait", "maybe"], "max_thinking": 60}
    whole = ask(client, xargs=xargs)
    assert text_of(whole).count(" Wait") == 1 and " maybe" in text_of(whole)
    streamed = "".join(piece.choices[0].text for piece in ask(client, xargs=xargs, stream=True))
    assert streamed == text_of(whole)
    several = [ask(client, xargs=xargs, n=3, temperature=0.9, seed=4) for _ in range(2)]
    texts = [[choice.text for choice in reply.choices] for reply in several]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1
    assert all(text.count("Wait") >= 1 and "maybe" in text for text in texts[0])
    unseeded = ask(client, xargs=xargs, n=4, temperature=0.9)
    assert len({choice.text for choice in unseeded.choices}) > 1
    piecewise: dict[int, str] = dict.fromkeys(range(3), "")
    for piece in ask(client, xargs=xargs, n=3, temperature=0.9, seed=4, stream=True):
        for choice in piece.choices:
            piecewise[choice.index] += choice.text
    assert list(piecewise.values()) == texts[0]
    if shutil.which("curl"):
        body = {"prompt": f"<|user|> {SHORT}<|assistant|><think>", "vllm_xargs": xargs}
        assert json.loads(curl(f"{server}/completions", body))["choices"][0]["text"] == text_of(whole)
        lines = curl(f"{server}/completions", body | {"stream": True}).splitlines()
        pieces = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        assert len(pieces) > 10 and "".join(p["choices"][0]["text"] for p in pieces) == text_of(whole)


def curl(url: str, body: dict[str, Any]) -> str:
    body = {"model": "petri", "max_tokens": 120, "temperature": 0, "skip_special_tokens": False, **body}
    command = ["curl", "-sN", url, "-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_several_samples_of_a_chat_have_their_budget_each_streamed_or_not(client) -> None:
    settings: Any = {"model": "petri", "messages": [{"role": "user", "content": SHORT}], "max_tokens": 60}
    settings |= {"n": 3, "temperature": 0.9, "seed": 3}
    body = {"vllm_xargs": {"max_thinking": 9, "min_thinking": 9, "wait": ""}, "skip_special_tokens": False}
    whole = client.chat.completions.create(**settings, extra_body=body)
    thoughts = [choice.message.model_extra["reasoning"] for choice in whole.choices]
    assert len(set(thoughts)) > 1 and [len(each.split()) for each in thoughts] == [9] * 3
    streamed = dict.fromkeys(range(3), "")
    for piece in client.chat.completions.create(**settings, extra_body=body, stream=True):
        for choice in piece.choices:
            streamed[choice.index] += (choice.delta.model_extra or {}).get("reasoning") or ""
    assert list(streamed.values()) == thoughts


def test_64_at_once_with_other_budgets_each_and_clients_that_leave(server, client) -> None:
    longest = text_of(ask(client, xargs={"min_thinking": 80, "wait": "", "max_thinking": 100})).split()

    async def every() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server, api_key="none", max_retries=0) as many:

            async def one(n: int) -> str:
                xargs = {"min_thinking": n, "max_thinking": n, "wait": ""}
                body = {"vllm_xargs": xargs, "skip_special_tokens": False}
                prompt = f"<|user|> {SHORT}<|assistant|><think>"
                settings: Any = {"model": "petri", "prompt": prompt, "max_tokens": 120, "temperature": 0}
                stream = await many.completions.create(**settings, extra_body=body, stream=True)
                text = ""
                async for piece in stream:
                    text += piece.choices[0].text
                    if n % 5 == 4 and len(text) > 8:
                        await stream.close()
                        return ""
                return text

            return await asyncio.gather(*(one(n) for n in range(64)))

    for n, text in enumerate(asyncio.run(every())):
        if n % 5 == 4:
            continue
        thinking, end, _ = text.partition("</think>")
        assert end and thinking.split() == longest[:n], (n, text)


def test_the_engine_in_this_process_does_the_same(vllm_engine) -> None:
    wanted, found = run_all(vllm_engine, Rounds), run_all(vllm_engine, Forcing)
    assert vllm_engine.plugin is True
    assert [without_times(g) for g in found.values()] == [without_times(g) for g in wanted.values()]
    assert all(g.error is None for g in found.values())


def test_the_doctor_says_that_the_plug_in_is_there(engine) -> None:
    report = asyncio.run(diagnose(engine, "petri", question=QUESTIONS[1]))
    found = {check.name: check for check in report.checks}
    assert found["plug-in"].level == "ok" and "one request" in found["plug-in"].found
    assert "beam search" not in found, "this server refuses it"
