"""JSON mode: every token of the answer is under the schema, the thinking is free, and what cannot be held is refused.

The engine here writes JSON where it is asked to; that real engines do is tested in test_serve_vllm.py and tests/real.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import ASK, PacedModel, TestServer

from s1.budget import Forcing
from s1.engines.one_request import fits_one_request
from s1.errors import EngineFailure
from s1.policy import BudgetPolicy
from s1.prompt import EncodedPrompt, encode_prompt
from s1.types import Chunk, Continuation

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}


class JsonModel(PacedModel):
    """Under a schema it writes JSON and then its end of turn. It refuses the schema {"type": "wrong"}."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.features = frozenset({"json_schema"})
        self.requests: list[Continuation] = []

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        self.requests.append(request)
        if request.json_schema is None:
            async for chunk in super().stream(request):
                yield chunk
            return
        if "wrong" in request.json_schema:
            raise EngineFailure("There is no type 'wrong'.")
        ids = self.encode('{"a": 1}')
        end = next(stop for stop in request.stops if stop.text in self.eos_texts)
        for token in ids[: request.max_tokens]:
            yield Chunk((token,))
        yield Chunk((), "length") if request.max_tokens <= len(ids) else Chunk((), "stop", end)


@pytest.fixture(scope="module")
def json_server(request) -> Any:
    from serving import servers

    started = servers()
    yield next(started)(JsonModel())
    next(started, None)


def test_the_answer_is_json_and_the_thinking_is_what_it_would_be(json_server: TestServer) -> None:
    for budget in ({"max_thinking": 4}, {"max_thinking": 300}, {"max_thinking": 0}, {"min_thinking": 30}):
        plain = json_server.ask(**budget).json()["choices"][0]["message"]
        json_server.served.engine.requests.clear()
        got = json_server.ask(**budget, response_format=FORMAT, receipt=True).json()["choices"][0]
        assert json.loads(got["message"]["content"]) == {"a": 1}
        assert got["message"]["reasoning"] == plain["reasoning"]
        assert all(s["phase"] != "answer" or s["by"] == "model" for s in got["receipt"]["spans"])
        *thinking, answer = json_server.served.engine.requests
        assert json.loads(answer.json_schema) == SCHEMA
        assert [r for r in thinking if r.json_schema is not None and r.max_tokens > 1] == []


@settings(max_examples=20)
@given(limit=st.integers(0, 40), waits=st.integers(0, 2), seed=st.integers(0, 50))
def test_a_stream_of_json_says_what_the_whole_reply_says(json_server, limit, waits, seed) -> None:
    json_server.served.engine._seed = seed
    asked = {"max_thinking": limit, "waits": waits, "response_format": {"type": "json_object"}}
    api = openai.OpenAI(base_url=f"{json_server.url}/v1", api_key="none", max_retries=0)
    budget = {"max_thinking": limit, "waits": waits}
    text = ""
    for chunk in api.chat.completions.create(
        model="tiny",
        messages=ASK["messages"],
        stream=True,
        response_format={"type": "json_object"},
        extra_body=budget,
    ):
        text += chunk.choices[0].delta.content or ""
    assert json.loads(text) == {"a": 1}
    assert text == json_server.ask(**asked).json()["choices"][0]["message"]["content"]


def test_plain_completions_and_responses_take_a_schema_too(json_server: TestServer) -> None:
    got = json_server.post("/v1/completions", prompt="2+2?", response_format=FORMAT).json()
    assert json.loads(got["choices"][0]["text"]) == {"a": 1}
    api = openai.OpenAI(base_url=f"{json_server.url}/v1", api_key="none", max_retries=0)
    shape: Any = {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True}}
    response = api.responses.create(model="tiny", input="2+2?", text=shape)
    assert json.loads(response.output_text) == {"a": 1}
    assert response.text is not None and response.text.format.to_dict() == shape["format"]


def test_the_openai_client_parses_the_answer_into_a_model(json_server: TestServer) -> None:
    from pydantic import BaseModel

    class Answer(BaseModel):
        a: int

    api = openai.OpenAI(base_url=f"{json_server.url}/v1", api_key="none", max_retries=0)
    got = api.chat.completions.parse(model="tiny", messages=ASK["messages"], response_format=Answer)  # type: ignore[arg-type]
    assert got.choices[0].message.parsed == Answer(a=1)


REFUSED = {
    "a schema without a schema": ({"type": "json_schema"}, "json_schema"),
    "a schema of no use": (
        {"type": "json_object", "json_schema": {"name": "x", "schema": {}}},
        "json_schema",
    ),
    "an unknown type": ({"type": "grammar"}, "response_format"),
    "a schema that the engine refuses": (
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}},
        "schema",
    ),
}


@pytest.mark.parametrize(("given_", "word"), REFUSED.values(), ids=list(REFUSED))
def test_a_format_that_makes_no_sense_is_refused_before_the_thinking(json_server, given_, word) -> None:
    for stream in (False, True):
        json_server.served.engine.requests.clear()
        got = json_server.ask(response_format=given_, stream=stream)
        assert got.status_code == 400 and word in got.json()["error"]["message"], got.text
        assert all(r.json_schema for r in json_server.served.engine.requests)


@pytest.mark.parametrize("depth", [100, 300, 3_000])
def test_a_schema_that_is_nested_too_deeply_is_refused(json_server: TestServer, depth: int) -> None:
    schema = '{"items":' * depth + "{}" + "}" * depth
    body = json.dumps(ASK)[:-1]
    body += f', "response_format": {{"type": "json_schema", "json_schema": {{"name": "x", "schema": {schema}}}}}}}'
    got = json_server.raw(body.encode())
    assert got.status_code == 400 and got.json()["error"]["message"]


def test_a_cue_and_a_format_contradict_each_other(json_server: TestServer) -> None:
    for cue, status in (("never", 200), ("cut", 400), ("always", 400)):
        got = json_server.ask(response_format=FORMAT, cue=cue)
        assert got.status_code == status
    assert "cue" in got.json()["error"]["message"]


def test_the_servers_own_cue_gives_way_to_a_format(serve) -> None:
    for policy in (
        BudgetPolicy(cue="always", max_answer=20),
        BudgetPolicy(profile="official", max_answer=20),
    ):
        served = serve(JsonModel(), policy=policy)
        got = served.ask(max_thinking=4, response_format=FORMAT).json()
        assert json.loads(got["choices"][0]["message"]["content"]) == {"a": 1}


def test_an_engine_without_grammars_refuses_by_name(shared: TestServer) -> None:
    got = shared.ask(response_format={"type": "json_object"})
    assert got.status_code == 400 and got.json()["error"]["param"] == "response_format"
    assert shared.ask(response_format={"type": "text"}).status_code == 200
    got = shared.post("/v1/responses", input="2+2?", text={"format": {"type": "json_object"}})
    assert got.status_code == 400 and "format" in got.json()["error"]["message"]


def test_an_answer_under_a_schema_is_asked_for_from_outside_and_never_taken_up_in_the_middle() -> None:
    engine = JsonModel()
    from dataclasses import replace

    from token_model import TAGS

    encoded: EncodedPrompt = encode_prompt(engine, TAGS, BudgetPolicy(max_thinking=4, cue="never"), "2+2?")
    assert fits_one_request(engine, encoded)
    held = replace(encoded, json_schema="{}")
    assert not fits_one_request(engine, held)
    forcing = Forcing(held, phase="answer")
    request = forcing.ask()
    assert request is not None and request.after(()) == request
    with pytest.raises(EngineFailure, match="JSON"):
        request.after((1,))
