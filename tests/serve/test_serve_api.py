"""What the server answers, asked with OpenAI's own client and with plain HTTP."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import ASK, PacedModel
from token_model import TAGS, TokenModel, run

from s1.budget import Forcing
from s1.drive import drive
from s1.harness.adapter import shown_text
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.serve.body import LIMITS

MESSAGES: Any = ASK["messages"]


def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def alone(policy: BudgetPolicy, seed: int = 0):
    """What the machine gives without a server."""
    engine = TokenModel(seed)
    prompt = engine.render(MESSAGES)
    return run(drive(Forcing(encode_prompt(engine, TAGS, policy, prompt)), engine))


def test_the_openai_client_gets_what_the_machine_gives(serve) -> None:
    served = serve()
    got = client(served.url).chat.completions.create(
        model="tiny", messages=MESSAGES, extra_body={"thinking_token_budget": 30, "waits": 2, "receipt": True}
    )
    expected = alone(BudgetPolicy(max_thinking=30, waits=2, max_answer=20))
    choice = got.choices[0]
    assert choice.message.content == shown_text(expected, TAGS)
    assert choice.message.reasoning_content == choice.message.reasoning == expected.text_of("thinking")
    assert choice.finish_reason == expected.finish
    assert got.usage is not None and got.usage.completion_tokens_details is not None
    assert got.usage.completion_tokens_details.reasoning_tokens == expected.thinking_tokens
    assert got.usage.prompt_tokens == len(expected.segments[0].token_ids)
    spans = choice.receipt["spans"]
    assert "".join(s["text"] for s in spans) == "".join(s.text for s in expected.segments[1:])
    assert [s["by"] for s in spans] == [s.by for s in expected.segments[1:]]
    assert got.s1["policy"] == expected.policy


@settings(max_examples=25)
@given(seed=st.integers(0, 99), chunk=st.integers(1, 9), limit=st.integers(0, 40), waits=st.integers(0, 3))
def test_a_stream_says_what_the_whole_reply_says(shared, seed, chunk, limit, waits) -> None:
    shared.served.engine._seed, shared.served.engine._size = seed, chunk
    asked = {"max_thinking": limit, "waits": waits}
    whole = shared.ask(**asked).json()
    stream = client(shared.url).chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, stream_options={"include_usage": True}, extra_body=asked
    )
    content = reasoning = ""
    for chunk_ in stream:
        for choice in chunk_.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            finish = choice.finish_reason or ""
        usage = chunk_.usage
    message = whole["choices"][0]["message"]
    assert (content, reasoning) == (message["content"], message["reasoning_content"])
    assert finish == whole["choices"][0]["finish_reason"]
    assert usage is not None and usage.model_dump(exclude_none=True) == whole["usage"]


def test_many_asynchronous_clients_at_once_each_get_their_own(serve) -> None:
    served = serve(PacedModel(pace=0.001), concurrent=3)

    async def ask(limit: int) -> int:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as api:
            got = await api.chat.completions.create(
                model="tiny", messages=MESSAGES, extra_body={"max_thinking": limit, "min_thinking": limit}
            )
        return got.usage.completion_tokens_details.reasoning_tokens

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*(ask(limit) for limit in range(20)))

    assert asyncio.run(all_of_them()) == list(range(20))


@pytest.mark.parametrize("name", LIMITS)
def test_every_name_of_the_limit_means_the_same(shared, name) -> None:
    assert shared.ask(**{name: 3}).json()["s1"]["policy"] == "max_thinking=3,max_answer=20"


@pytest.mark.parametrize(
    ("effort", "policy"),
    [("none", "max_thinking=0,"), ("low", ""), ("xhigh", "waits=2,")],
)
def test_an_effort_is_a_named_policy_and_the_reply_says_which(shared, effort, policy) -> None:
    got = shared.ask(reasoning_effort=effort).json()[
        "s1"
    ]  # "low" does not fit this context: the room decides
    assert got == {"policy": f"{policy}max_answer=20", "reasoning_effort": effort}


def test_several_choices_with_a_seed_are_repeatable_and_differ(shared) -> None:
    asked = {"n": 3, "seed": 5, "temperature": 1.0, "min_thinking": 20}
    one, other = (shared.ask(**asked).json() for _ in range(2))
    texts = [c["message"]["reasoning"] for c in one["choices"]]
    assert [c["index"] for c in one["choices"]] == [0, 1, 2] and len(set(texts)) == 3
    assert one["choices"] == other["choices"]


def test_a_stop_ends_the_answer(serve) -> None:
    shared = serve(PacedModel(3, ends_in=40))
    plain = shared.ask(max_thinking=9, min_thinking=9).json()["choices"][0]["message"]
    assert "Answer" in plain["content"]  # forced, so no stop
    assert "b" in plain["content"]
    got = shared.ask(max_thinking=9, min_thinking=9, stop=["b"]).json()["choices"][0]
    assert got["message"]["content"] == plain["content"].partition("b")[0].rstrip()
    assert got["message"]["reasoning"] == plain["reasoning"]


def test_plain_completions_think_after_the_prompt(shared) -> None:
    got = client(shared.url).completions.create(
        model="tiny", prompt=["2+2?", "3+3?"], extra_body={"min_thinking": 9}
    )
    assert len(got.choices) == 2 and all(c.reasoning for c in got.choices)


def test_grace_and_the_loop_guard_are_fields(shared) -> None:
    got = shared.ask(max_thinking=9, grace=5, on_loop="end", receipt=True).json()
    assert "grace=5" in got["s1"]["policy"] and 'on_loop="end"' in got["s1"]["policy"]


def test_a_limit_of_tokens_holds_for_thinking_and_answer_together(shared) -> None:
    assert shared.ask(max_completion_tokens=60).json()["usage"]["completion_tokens"] <= 60


WRONG = {
    "an unknown field": ({"max_thinkin": 3}, 400, "max_thinkin"),
    "two limits": ({"max_thinking": 3, "budget_tokens": 4}, 400, "budget_tokens"),
    "an effort and another limit": ({"reasoning_effort": "none", "max_thinking": 4}, 400, "reasoning_effort"),
    "two totals": ({"max_tokens": 30, "max_completion_tokens": 40}, 400, "max_completion_tokens"),
    "a negative budget": ({"max_thinking": -1}, 400, "max_thinking"),
    "a minimum above the limit": ({"max_thinking": 3, "min_thinking": 4}, 400, "min_thinking"),
    "a budget beyond the context": ({"max_thinking": 100_000}, 400, "max_thinking"),
    "a number as text": ({"max_thinking": "3"}, 400, "max_thinking"),
    "true as a number": ({"waits": True}, 400, "waits"),
    "no number": ({"temperature": "NaN"}, 400, "temperature"),
    "too hot": ({"temperature": 3}, 400, "temperature"),
    "many waits": ({"waits": 33}, 400, "waits"),
    "many choices": ({"n": 500, "temperature": 1.0}, 400, "500"),
    "equal choices": ({"n": 2}, 400, "temperature 0"),
    "a stop that is the delimiter": ({"stop": "</think>"}, 400, "delimiter"),
    "an empty stop": ({"stop": [""]}, 400, "stop"),
    "the best log-probabilities": ({"top_logprobs": 3}, 400, "top_logprobs"),
    "a tool that must be called": ({"tool_choice": "required"}, 400, "tool_choice"),
    "a schema": ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "response_format"),
    "tools": ({"tools": [{"type": "function"}]}, 400, "tools"),
    "JSON mode": ({"response_format": {"type": "json_object"}}, 400, "response_format"),
    "a penalty": ({"presence_penalty": 0.5}, 400, "presence_penalty"),
    "another model": ({"model": "gpt-5"}, 404, "gpt-5"),
    "no message": ({"messages": []}, 400, "messages"),
    "a picture": ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "content"),
    "a lone surrogate": ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "nicode"),
    "options of no stream": ({"stream_options": {"include_usage": True}}, 400, "stream"),
    "a long prompt": ({"messages": [{"role": "user", "content": "x" * 1000}]}, 400, "context"),
}


@pytest.mark.parametrize(("body", "status", "word"), WRONG.values(), ids=list(WRONG))
def test_what_cannot_be_followed_is_refused_by_name(shared, body, status, word) -> None:
    sent = json.dumps(ASK | body).encode()
    got = shared.raw(sent)
    assert got.status_code == status, got.text
    message = got.json()["error"]["message"]
    assert word in message and "\n" not in message and len(message) <= 700


# --- /v1/responses ------------------------------------------------------------------------------------------


def test_a_response_says_what_the_chat_says(shared) -> None:
    got = client(shared.url).responses.create(
        model="tiny",
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "1+1?"},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "x"}],
            },
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "2"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "2+2?"}]},
        ],
        max_output_tokens=60,
        extra_body={"max_thinking": 9, "min_thinking": 9, "receipt": True},
    )
    chat = shared.ask(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "2+2?"},
        ],
        max_tokens=60, max_thinking=9, min_thinking=9, receipt=True,
    ).json()  # fmt: skip
    choice = chat["choices"][0]
    assert [item.type for item in got.output] == ["reasoning", "message"]
    assert got.output[0].content[0].text == choice["message"]["reasoning"]
    assert got.output_text == choice["message"]["content"]
    assert got.status == {"stop": "completed", "length": "incomplete"}[choice["finish_reason"]]
    assert got.usage.output_tokens_details.reasoning_tokens == choice["receipt"]["thinking_tokens"] == 9
    assert got.usage.output_tokens == chat["usage"]["completion_tokens"]
    assert got.receipt["spans"] == choice["receipt"]["spans"] and got.s1 == chat["s1"]


@pytest.mark.parametrize(
    "asked", [{"max_thinking": 0}, {"max_thinking": 30, "waits": 2}, {"min_thinking": 9}]
)
def test_a_streamed_response_grows_into_the_whole_one(shared, asked) -> None:
    sent = {"model": "tiny", "input": "2+2?", "extra_body": asked}
    whole = client(shared.url).responses.create(**sent)
    names, reasoning = [], ""
    with client(shared.url).responses.stream(**sent) as stream:
        for event in stream:
            names.append(event.type)
            reasoning += event.delta if event.type == "response.reasoning_text.delta" else ""
    assert names[0] == "response.created" and names[-1] == f"response.{whole.status}"
    assert event.response.output_text == whole.output_text
    assert [i.type for i in event.response.output] == [i.type for i in whole.output]
    if asked.get("max_thinking") != 0:
        assert reasoning == whole.output[0].content[0].text
    assert (
        names.count("response.output_item.done")
        == names.count("response.output_item.added")
        == len(whole.output)
    )


def test_a_response_takes_its_effort_from_either_place(shared) -> None:
    api = client(shared.url).responses
    got = api.create(model="tiny", input="2+2?", reasoning={"effort": "none"})
    assert got.reasoning.effort == "none" and [i.type for i in got.output] == ["message"]
    with pytest.raises(openai.BadRequestError, match="reasoning_effort"):
        api.create(
            model="tiny", input="2+2?", reasoning={"effort": "none"}, extra_body={"reasoning_effort": "low"}
        )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("previous_response_id", "resp_1"),
        ("store", True),
        ("tools", [{"type": "web_search"}]),
        ("text", {"format": {"type": "json_object"}}),
        ("reasoning", {"summary": "auto"}),
        ("input", [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]),
        ("input", [{"role": "assistant", "content": "x"}]),
        ("thinking_budgt", 3),
        ("background", True),
    ],
)
def test_what_a_response_cannot_do_is_refused_by_name(shared, field, value) -> None:
    got = shared.post("/v1/responses", **{"input": "2+2?", field: value})
    assert got.status_code == 400 and field in got.json()["error"]["message"]


@pytest.mark.parametrize("sent", [b"", b"{", b"[1]", b'"x"', b"\xff", b"[" * 100_000, b'{"n":' + b"9" * 9999])
def test_what_is_no_request_is_refused(shared, sent) -> None:
    assert shared.raw(sent).status_code == 400
    assert shared.ask(max_thinking=1).status_code == 200


def test_the_description_is_published(shared) -> None:
    import httpx

    paths = httpx.get(f"{shared.url}/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/thinking/{id}", "/v1/models"} <= set(paths)


# --- turned while it runs -----------------------------------------------------------------------------------


def held(**options: Any) -> PacedModel:
    """A model that gives a few pieces, and the rest when the test has acted."""
    return PacedModel(allowed=8, **options)


def turned(served, turn: dict[str, Any], **asked: Any):
    """Ask for a stream, turn it after the first thinking, and return the status of the turn and the receipt."""
    stream = client(served.url).chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, extra_body={"receipt": True} | asked
    )
    status, receipt = 0, {}
    for chunk in stream:
        if not status and getattr(chunk.choices[0].delta, "reasoning", None):
            status = served.post(f"/v1/thinking/{chunk.id}", **turn).status_code
            served.served.engine.allowed = math.inf
        receipt = getattr(chunk.choices[0], "receipt", None) or receipt
    return status, receipt


def test_a_stream_can_be_told_to_answer_now(serve) -> None:
    served = serve(held(ends_in=10_000))
    status, receipt = turned(served, {"answer_now": True}, max_thinking=300)
    assert (status, receipt["cut_by"]) == (200, "answer_now")
    assert receipt["thinking_tokens"] < 30


def test_a_stream_can_be_told_to_wait(serve) -> None:
    plain = serve(PacedModel(ends_in=60)).ask(receipt=True).json()["choices"][0]["receipt"]
    status, receipt = turned(serve(held(ends_in=60)), {"wait": True})
    assert (status, plain["waits"], receipt["waits"]) == (200, 0, 1)


def test_a_stream_can_get_another_limit(serve) -> None:
    status, receipt = turned(serve(held(ends_in=10_000)), {"max_thinking": 50}, max_thinking=300)
    assert (status, receipt["cut_by"], receipt["thinking_tokens"]) == (200, "limit", 50)


@pytest.mark.parametrize(("turn", "status"), [({}, 400), ({"max_thinking": 9_999}, 400), ({"waits": 1}, 400)])
def test_a_turn_that_makes_no_sense_is_refused_and_the_request_goes_on(serve, turn, status) -> None:
    got, receipt = turned(serve(held(ends_in=10_000)), turn, max_thinking=60)
    assert (got, receipt["thinking_tokens"]) == (status, 60)


def test_a_request_that_is_unknown_or_over_cannot_be_turned(serve) -> None:
    served = serve(held(ends_in=10_000))
    assert served.post("/v1/thinking/chatcmpl-none", wait=True).status_code == 404
    found: list[int] = []
    for chunk in client(served.url).chat.completions.create(
        model="tiny", messages=MESSAGES, stream=True, max_tokens=100, extra_body={"max_thinking": 6}
    ):
        if chunk.choices[0].delta.content and not found:
            found.append(served.post(f"/v1/thinking/{chunk.id}", wait=True).status_code)
            served.served.engine.allowed = math.inf
    assert found == [409]
