"""Log-probabilities in the API, asked with OpenAI's own client, over the real small model."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from serving import TestServer, servers

pytest.importorskip("torch")

from s1.engines import load_engine  # noqa: E402
from s1.formats import FORMATS  # noqa: E402

QUESTION = "start 6 mod 11 ; 1 : + 7 ; 2 : + 9"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]


@pytest.fixture(scope="module")
def petri():
    started = servers()
    yield next(started)(load_engine("petri", cache_bytes=1 << 26), fmt=FORMATS["petri"])
    next(started, None)


def api(server: TestServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("budget", [{"max_thinking": 8}, {}, {"max_thinking": 0, "cue": "never"}])
def test_a_chat_reports_the_tokens_that_the_model_drew_in_its_answer(petri, budget) -> None:
    sent = {"model": "tiny", "messages": MESSAGES, "extra_body": {"max_answer": 12, "receipt": True} | budget}
    plain = api(petri).chat.completions.create(**sent).choices[0]
    got = api(petri).chat.completions.create(**sent, logprobs=True, top_logprobs=4).choices[0]
    assert plain.logprobs is None and got.message == plain.message
    tokens = got.logprobs.content
    drawn = "".join(s["text"] for s in got.receipt["spans"] if s["phase"] == "answer")
    assert "".join(t.token for t in tokens) == drawn and got.message.content.endswith(drawn.strip())
    assert b"".join(bytes(t.bytes) for t in tokens).decode() == drawn
    for token in tokens:
        assert token.logprob <= 0 and len(token.top_logprobs) == 4
        assert token.top_logprobs[0].token == token.token  # greedy
        assert [t.logprob for t in token.top_logprobs] == sorted(t.logprob for t in token.top_logprobs)[::-1]
    streamed = []
    for chunk in api(petri).chat.completions.create(**sent, logprobs=True, top_logprobs=4, stream=True):
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.content
    assert [t.to_dict() for t in streamed] == [t.to_dict() for t in tokens]


@pytest.mark.parametrize("budget", [{"max_thinking": 8}, {}, {"max_thinking": 0, "cue": "never"}])
def test_a_completion_reports_them_with_their_places_in_the_text(petri, budget) -> None:
    sent = {"model": "tiny", "prompt": QUESTION, "extra_body": {"max_answer": 12} | budget}
    got = api(petri).completions.create(**sent, logprobs=2).choices[0]
    found = got.logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    assert found.tokens
    for token, at, top in zip(found.tokens, found.text_offset, found.top_logprobs, strict=True):
        assert len(top) == 2 and max(top, key=top.get) == token
        word = token.strip()
        assert got.text[at : at + len(token)].strip() == word or got.text[at:].startswith(word)
    offsets = []
    for chunk in api(petri).completions.create(**sent, logprobs=2, stream=True):
        if chunk.choices[0].logprobs is not None:
            offsets += chunk.choices[0].logprobs.text_offset
    assert offsets == found.text_offset
    assert api(petri).completions.create(**sent, logprobs=0).choices[0].logprobs.top_logprobs is None


def test_responses_reports_what_chat_reports(petri) -> None:
    chat = api(petri).chat.completions.create(
        model="tiny", messages=MESSAGES, logprobs=True, top_logprobs=2, extra_body={"max_thinking": 8}
    )
    expected = [t.to_dict() for t in chat.choices[0].logprobs.content]
    sent: Any = {
        "model": "tiny",
        "input": MESSAGES,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
        "extra_body": {"max_thinking": 8},
    }
    whole = api(petri).responses.create(**sent)
    assert expected and [t.to_dict() for t in whole.output[-1].content[0].logprobs] == expected
    streamed, done = [], []
    for event in api(petri).responses.create(**sent, stream=True):
        if event.type == "response.output_text.delta":
            streamed += [t.to_dict() for t in event.logprobs]
        elif event.type == "response.output_text.done":
            done = [t.to_dict() for t in event.logprobs]
        elif event.type == "response.completed":
            assert [t.to_dict() for t in event.response.output[-1].content[0].logprobs] == expected
    assert done == expected and streamed == expected[: len(streamed)] and streamed
    got = petri.post("/v1/responses", input="x", top_logprobs=2)
    assert got.status_code == 400 and "include" in got.json()["error"]["message"]
    got = petri.post("/v1/responses", input="x", include=["file_search_call.results"])
    assert got.status_code == 400 and "include" in got.json()["error"]["message"]


def test_what_makes_no_sense_is_refused_by_name(petri, shared) -> None:
    for body in ({"top_logprobs": 2}, {"logprobs": True, "top_logprobs": 21}, {"logprobs": 3}):
        got = petri.ask(**body)
        assert got.status_code == 400 and "logprobs" in got.json()["error"]["message"]
    got = shared.ask(logprobs=True)  # an engine without them
    assert got.status_code == 400 and got.json()["error"]["param"] == "logprobs"
