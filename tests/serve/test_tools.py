"""Tools: rendered by the model's own template, called in its answer, asked with OpenAI's own client.

The templates are those of Qwen; what the model writes is given by the test.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import PacedModel, TestServer, servers
from token_model import TAGS

from s1.serve.body import Served
from s1.serve.replies import AnswerStream
from s1.serve.tools import CALL_CLOSE, split_calls
from s1.span_text import SpanPiece
from s1.types import Chunk, Continuation

TOKENIZERS = Path(__file__).parents[3] / "shared" / "data" / "tokenizers"
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {"town": {"$ref": "#/$defs/Town"}},
            "required": ["town"],
            "$defs": {"Town": {"type": "string"}},
        },
    },
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
MESSAGES: Any = [{"role": "user", "content": "How is Paris?"}]
ONE = '<tool_call>\n{"name": "weather", "arguments": {"town": "Paris"}}\n</tool_call>'
TWO = f'I look.\n\n{ONE}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'


class ToolModel(PacedModel):
    """Writes `answer` after its thinking, and JSON under a schema. Its chat template is that of a real model."""

    def __init__(self, template: str) -> None:
        super().__init__(context=4000)
        transformers = pytest.importorskip("transformers")
        if not (TOKENIZERS / template).is_dir():
            pytest.skip(f"needs the tokenizer {template} in shared/data/tokenizers")
        self._template = transformers.AutoTokenizer.from_pretrained(TOKENIZERS / template)
        self.features = frozenset({"json_schema"})
        self.answer, self.schemas = "", list[str]()

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        text: str = self._template.apply_chat_template(
            list(messages), tools=list(tools) or None, add_generation_prompt=True, tokenize=False
        )
        return text

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        self.prompt = self.decode(request.prefix)
        text = self.answer
        if request.json_schema is not None:
            self.schemas.append(request.json_schema)
            text = '{"name": "weather", "arguments": {"town": "Rome"}}'
        elif any(stop.text == "</think>" for stop in request.stops):
            async for chunk in super().stream(request):
                yield chunk
            return
        ends = [stop for stop in request.stops if stop.text in text]
        stop = ends[0] if ends else request.stops[0]
        ids = self.encode(text.partition(stop.text)[0])[: request.max_tokens]
        for at in range(0, len(ids), 3):
            yield Chunk(ids[at : at + 3])
        yield Chunk((), "length") if len(ids) == request.max_tokens else Chunk((), "stop", stop)


@pytest.fixture(scope="module", params=["qwen3", "qwen2.5-instruct"])
def server(request):
    started = servers()
    yield next(started)(ToolModel(request.param))
    next(started, None)


def ask(server: TestServer, answer: str, **more: Any) -> Any:
    server.served.engine.answer = answer
    api = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    given = {"model": "tiny", "messages": MESSAGES, "tools": [WEATHER, CLOCK]}
    body = {"max_thinking": 6, "max_answer": 400}
    return api.chat.completions.create(**given | {"extra_body": body} | more)


def test_calls_are_read_from_the_answer(server) -> None:
    choice = ask(server, TWO).choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.reasoning
    assert [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls] == [
        ("weather", {"town": "Paris"}),
        ("clock", {}),
    ]
    assert len({c.id for c in choice.message.tool_calls}) == 2
    assert "<tool_call>" in server.served.engine.prompt and '"weather"' in server.served.engine.prompt
    assert ask(server, ONE).choices[0].message.content is None
    cued = ask(server, "4", extra_body={"max_thinking": 6, "max_answer": 400, "cue": "cut"})
    assert "Answer" in cued.choices[0].message.content


@pytest.mark.parametrize("answer", [TWO, ONE, "It is a < b.", f"{ONE} and so", "<tool_call>\n{oops"])
def test_a_stream_of_calls_says_what_the_whole_reply_says(server, answer) -> None:
    message = ask(server, answer, extra_body={"max_thinking": 0, "max_answer": 400}).choices[0].message
    content, calls, finish = "", list[Any](), ""
    for chunk in ask(server, answer, stream=True, extra_body={"max_thinking": 0, "max_answer": 400}):
        [choice] = chunk.choices
        content += choice.delta.content or ""
        calls += choice.delta.tool_calls or []
        finish = choice.finish_reason or finish
    assert content == (message.content or "")
    whole = message.tool_calls or []
    assert [c.function.to_dict() for c in calls] == [c.function.to_dict() for c in whole]
    assert [c.index for c in calls] == list(range(len(whole))) and all(c.id for c in calls)
    assert finish == ("tool_calls" if whole else "stop")


def test_what_is_no_call_stays_in_the_answer(server) -> None:
    for answer in ("<tool_call>\n{oops\n</tool_call>", "<tool_call>[1]</tool_call>", "plain"):
        choice = ask(server, answer, extra_body={"max_thinking": 0, "max_answer": 400}).choices[0]
        assert choice.message.content == answer and choice.finish_reason == "stop"
        assert choice.message.tool_calls is None
    choice = ask(server, ONE, extra_body={"max_answer": 30, "max_thinking": 0}).choices[0]
    assert choice.finish_reason == "length" and choice.message.tool_calls is None


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_call_that_must_come_is_held_to_the_schema_of_its_tools(server, choice) -> None:
    engine = server.served.engine
    for budget in ({"max_thinking": 6}, {"max_thinking": 400}):
        engine.schemas.clear()
        got = ask(server, "I will not.", tool_choice=choice, extra_body={"max_answer": 400} | budget).choices[
            0
        ]
        [call] = got.message.tool_calls
        assert got.finish_reason == "tool_calls" and got.message.content is None
        assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"town": "Rome"})
        schema = json.loads(engine.schemas[-1])
        assert schema["$defs"] == {"Town": {"type": "string"}}
        named = [s["properties"]["name"]["const"] for s in schema.get("anyOf", [schema])]
        assert named == (["weather", "clock"] if choice == "required" else ["weather"])
        assert engine.prompt.endswith("<tool_call>\n")


def test_none_means_that_the_model_sees_no_tool_and_its_text_is_text(server) -> None:
    got = ask(
        server, ONE, tool_choice="none", extra_body={"max_thinking": 0, "cue": "never", "max_answer": 400}
    )
    assert got.choices[0].message.content == ONE and "weather" not in server.served.engine.prompt


def test_one_call_at_most_where_parallel_calls_are_not_wanted(server) -> None:
    assert CALL_CLOSE not in json.dumps(MESSAGES)
    assert len(ask(server, TWO, parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_what_a_tool_has_found_is_shown_to_the_model(server) -> None:
    call = ask(server, ONE).choices[0].message
    found = {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "22 degrees"}
    got = ask(server, "It is warm.", messages=[*MESSAGES, call.to_dict(), found]).choices[0]
    assert got.message.content.endswith("It is warm.") and got.finish_reason == "stop"
    prompt = server.served.engine.prompt
    assert "<tool_response>\n22 degrees" in prompt
    assert '{"name": "weather", "arguments": {"town": "Paris"}}' in prompt


def respond(server: TestServer, answer: str, **more: Any) -> Any:
    """The same of /v1/responses."""
    server.served.engine.answer = answer
    api = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    flat: Any = [{"type": "function"} | tool["function"] for tool in (WEATHER, CLOCK)]
    given = {"model": "tiny", "input": MESSAGES, "tools": flat}
    return api.responses.create(**given | {"extra_body": {"max_thinking": 6, "max_answer": 400}} | more)


def test_responses_has_an_item_for_each_call_and_takes_it_back_with_what_was_found(server) -> None:
    reply = respond(server, TWO)
    assert [item.type for item in reply.output] == ["reasoning", "message", "function_call", "function_call"]
    assert reply.output_text == "I look." and reply.status == "completed"
    calls = reply.output[2:]
    assert [(c.name, json.loads(c.arguments)) for c in calls] == [
        ("weather", {"town": "Paris"}),
        ("clock", {}),
    ]
    assert len({c.id for c in calls} | {c.call_id for c in calls}) == 4
    assert [item.type for item in respond(server, ONE).output] == ["reasoning", "function_call"]
    found = [{"type": "function_call_output", "call_id": c.call_id, "output": "22 degrees"} for c in calls]
    got = respond(server, "It is warm.", input=[*MESSAGES, *reply.output, *found])
    assert got.output_text.endswith("It is warm.")
    prompt = server.served.engine.prompt
    assert prompt.count("<tool_response>\n22 degrees") == 2 and "I look." in prompt
    assert '{"name": "weather", "arguments": {"town": "Paris"}}' in prompt


@pytest.mark.parametrize("budget", [0, 6])
@pytest.mark.parametrize("answer", [TWO, ONE, "It is a < b.", f"{ONE} and so", "<tool_call>\n{oops"])
def test_a_stream_of_responses_says_what_the_whole_one_says(server, answer, budget) -> None:
    body = {"max_thinking": budget, "max_answer": 400}
    whole = respond(server, answer, extra_body=body).output
    open_items, done, grown = [], [], dict[str, str]()
    for event in respond(server, answer, extra_body=body, stream=True):
        if event.type == "response.output_item.added":
            assert event.output_index == len(open_items)
            open_items.append(event.item.id)
        elif event.type.endswith(".delta"):
            assert event.item_id == open_items[event.output_index]
            grown[event.item_id] = grown.get(event.item_id, "") + event.delta
        elif event.type == "response.output_item.done":
            done.append(event.item)
        elif event.type == "response.completed":
            assert [item.to_dict() for item in event.response.output] == [item.to_dict() for item in done]

    def said(items: Any) -> Any:
        return [(i.type, i.arguments if i.type == "function_call" else i.content[0].text) for i in items]

    assert said(done) == said(whole) and [grown.get(i.id, "") for i in done] == [
        text for _, text in said(done)
    ]


def test_responses_can_ask_for_a_call(server) -> None:
    for choice in ("required", {"type": "function", "name": "weather"}):
        reply = respond(server, "I will not.", tool_choice=choice)
        assert [(c.type, getattr(c, "name", "")) for c in reply.output[1:]] == [("function_call", "weather")]
    assert len(respond(server, TWO, parallel_tool_calls=False).output) == 3
    got = respond(
        server, ONE, tool_choice="none", extra_body={"max_thinking": 0, "cue": "never", "max_answer": 400}
    )
    assert got.output_text == ONE and "weather" not in server.served.engine.prompt


WRONG = {
    "a choice without tools": ({"tool_choice": "required"}, "tool_choice"),
    "another tool": (
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "clock"}}},
        "clock",
    ),
    "a format too": ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
    "a cue too": ({"tools": [WEATHER], "tool_choice": "required", "cue": "cut"}, "cue"),
    "definitions that are none": (
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"$defs": 3}}}],
            "tool_choice": "required",
        },
        "$defs",
    ),
    "a search": ({"tools": [{"type": "web_search"}]}, "tools"),
    "a name with blanks": ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "name"),
    "an old field": ({"functions": [{"name": "x"}]}, "functions"),
    "arguments that are not an object": (
        {
            "messages": [
                *MESSAGES,
                {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": "[1]"}}]},
            ]
        },
        "arguments",
    ),
    "a user who calls": (
        {"messages": [{"role": "user", "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]}]},
        "tool_calls",
    ),
    "a message without content": ({"messages": [{"role": "assistant"}]}, "content"),
}


@pytest.mark.parametrize(("body", "word"), WRONG.values(), ids=list(WRONG))
def test_what_makes_no_sense_is_refused_by_name(server, body, word) -> None:
    got = server.ask(**body)
    assert got.status_code == 400 and word in got.json()["error"]["message"], got.text


def test_a_template_that_ignores_tools_is_an_error(shared) -> None:
    got = shared.ask(tools=[WEATHER])
    assert got.status_code == 400 and got.json()["error"]["param"] == "tools"
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "clock", "arguments": "{}"}}]}
    got = shared.ask(messages=[*MESSAGES, called, {"role": "tool", "content": "noon"}])
    assert got.status_code == 400 and got.json()["error"]["param"] == "tool_calls"


def test_an_engine_without_grammars_cannot_promise_a_call(serve) -> None:
    model = ToolModel("qwen3")
    model.features = frozenset()
    got = serve(model).ask(tools=[WEATHER], tool_choice="required")
    assert got.status_code == 400 and got.json()["error"]["param"] == "tool_choice"
    model.answer = ONE
    assert serve(model).ask(tools=[WEATHER], max_answer=400).json()["choices"][0]["message"]["tool_calls"]


PIECES = st.sampled_from(
    [
        "<tool_call>",
        "</tool_call>",
        "<tool",
        "_call>",
        "\n",
        " ",
        "a",
        "<",
        ONE,
        '{"name": "f", "arguments": {}}',
        "</",
    ]
)


@given(parts=st.lists(PIECES, max_size=8), sizes=st.lists(st.integers(1, 30), min_size=1))
def test_an_answer_in_pieces_is_split_as_the_whole_one(parts, sizes) -> None:
    whole = "".join(parts)
    stream = AnswerStream(Served(PacedModel(), TAGS, "tiny"), calls=True)
    stream.add(SpanPiece(TAGS.close, "delimiter", "forced"))
    content, at, n = "", 0, 0
    while at < len(whole):
        size = sizes[n % len(sizes)]
        content += stream.add(SpanPiece(whole[at : at + size], "answer", "model"))
        at, n = at + size, n + 1
    rest, calls = stream.end()
    expected = split_calls(whole.strip())
    assert content + rest == expected.content
    assert [c["function"] for c in calls] == [c["function"] for c in expected.calls]
    if not expected.calls:
        assert content + rest == whole.strip()
