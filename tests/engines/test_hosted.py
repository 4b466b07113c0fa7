"""Hosted chat APIs: the cap is passed on under the name that the API gives it, everything else is refused."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("httpx2")
pytest.importorskip("transformers")

from imitation import Imitation, noise  # noqa: E402

from s1.engines.hosted import think_hosted  # noqa: E402
from s1.errors import BadConfig, EngineFailure, Unsupported  # noqa: E402
from s1.petri.tokenizer import VOCABULARY_SIZE, build_tokenizer  # noqa: E402
from s1.policy import BudgetPolicy  # noqa: E402
from s1.types import Sampling  # noqa: E402

ANSWER = {
    "choices": [
        {"message": {"reasoning": " 1 + 2 = 3 so 3", "content": " 3"}, "finish_reason": "stop"},
    ],
    "usage": {"completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 9}},
}


def usage(total, thought):
    return {"completion_tokens": total, "completion_tokens_details": {"reasoning_tokens": thought}}


@pytest.fixture
def server():
    made = Imitation(build_tokenizer(), noise(0, VOCABULARY_SIZE))
    made.chat = dict(ANSWER)
    yield made
    made.stop()


def ask(server, policy, **options):
    return asyncio.run(
        think_hosted(server.address, "1 + 2", policy, model="m", **{"budget_field": "a.budget", **options})
    )


def test_the_cap_is_passed_on_under_its_name_and_the_receipt_is_inexact(server):
    receipt = ask(server, BudgetPolicy(max_thinking=500))
    assert server.bodies[0]["a"] == {"budget": 500}
    assert (receipt.thinking_tokens, receipt.answer_tokens, receipt.exact) == (9, 3, False)
    assert (receipt.text_of("thinking"), receipt.text_of("answer")) == (" 1 + 2 = 3 so 3", " 3")
    assert not receipt.cut and receipt.finish == "stop"
    assert ask(server, BudgetPolicy(max_thinking=9)).cut


@pytest.mark.parametrize(
    "policy",
    [
        BudgetPolicy(),
        BudgetPolicy(max_thinking=9, waits=1),
        BudgetPolicy(max_thinking=9, min_thinking=3),
        BudgetPolicy(max_thinking=9, max_answer=3),
        BudgetPolicy(max_thinking=9, grace=2),
        BudgetPolicy(max_thinking=9, transition="so"),
        BudgetPolicy(max_thinking=9, cue="never"),
        BudgetPolicy(max_thinking=9, profile="official"),
    ],
    ids=lambda policy: policy.label,
)
def test_what_means_something_else_there_is_refused_before_any_request(server, policy):
    with pytest.raises(Unsupported):
        ask(server, policy)
    assert not server.bodies


@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0, top_k=3), Sampling(temperature=1.0, seed=3)])
def test_sampling_that_is_not_promised_is_refused(server, sampling):
    with pytest.raises(Unsupported):
        ask(server, BudgetPolicy(max_thinking=9), sampling=sampling)
    assert not server.bodies


def test_tokens_are_counted_here_where_the_api_does_not_report_them(server, tmp_path):
    server.chat = ANSWER | {"usage": {"completion_tokens": 12}}
    receipt = ask(server, BudgetPolicy(max_thinking=9))
    assert receipt.error is not None and "tokenizer=" in receipt.error
    assert receipt.text_of("answer") == " 3", "what was paid for is kept"
    server.tokenizer.save_pretrained(tmp_path)
    receipt = ask(server, BudgetPolicy(max_thinking=9), tokenizer=str(tmp_path))
    assert (receipt.thinking_tokens, receipt.answer_tokens, receipt.error) == (7, 1, None)


def test_none_reported_beside_a_page_of_thinking_is_no_report(server):
    server.chat = ANSWER | {"usage": usage(12, 0)}
    assert "tokenizer=" in (ask(server, BudgetPolicy(max_thinking=9)).error or "")
    message = {"reasoning": None, "content": " 3"}
    server.chat = {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage(12, 0)}
    receipt = ask(server, BudgetPolicy(max_thinking=9))
    assert (receipt.thinking_tokens, receipt.answer_tokens, receipt.error) == (0, 12, None)


def test_a_cap_that_was_not_kept_to_stands_on_the_receipt(server):
    """OpenRouter, for one, takes the number for an effort where a model knows only efforts."""
    server.chat = ANSWER | {"usage": usage(900, 800)}
    receipt = ask(server, BudgetPolicy(max_thinking=500))
    assert receipt.error is not None and "800 tokens under a cap of 500" in receipt.error
    assert receipt.thinking_tokens == 800 and receipt.text_of("answer") == " 3"
    assert ask(server, BudgetPolicy(max_thinking=790)).error is None, "counted otherwise, by a few"


MODEL_STUDIO = {"enable_thinking": True}
MANUALS = {
    "vLLM": ("thinking_token_budget", {"skip_special_tokens": False}),
    "OpenRouter": ("reasoning.max_tokens", {}),
    "Model Studio": ("thinking_budget", MODEL_STUDIO),
}


def by_the_manual(body: dict, api: str) -> int:
    """The cap as that API reads it from a request; fails for a field that its manual does not know."""
    common = {"model": str, "messages": list, "temperature": float, "top_p": float}
    own = {
        "vLLM": {"thinking_token_budget": int, "skip_special_tokens": bool},
        "OpenRouter": {"reasoning": dict},
        "Model Studio": {"thinking_budget": int, "enable_thinking": bool},
    }[api]
    for name, value in body.items():
        assert type(value) is (common | own)[name], name
    assert [set(m) for m in body["messages"]] == [{"role", "content"}]
    if api == "OpenRouter":
        assert set(body["reasoning"]) == {"max_tokens"}, "an effort beside it is refused there"
        return body["reasoning"]["max_tokens"]
    if api == "Model Studio":
        assert body["enable_thinking"] is True, "without it the budget means nothing there"
        return body["thinking_budget"]
    return body["thinking_token_budget"]


@pytest.mark.parametrize("api", MANUALS)
def test_each_api_is_asked_in_the_fields_of_its_manual(api, server, monkeypatch):
    monkeypatch.setenv("HOSTED_KEY", "sk-1")
    field, more = MANUALS[api]
    policy, sampling = BudgetPolicy(max_thinking=2000), Sampling(temperature=0.6, top_p=0.95)
    receipt = ask(
        server, policy, budget_field=field, fields=more, sampling=sampling, api_key_env="HOSTED_KEY"
    )
    body = server.bodies[0]
    assert by_the_manual(body, api) == 2000
    assert body["messages"] == [{"role": "user", "content": "1 + 2"}]
    assert (body["temperature"], body["top_p"]) == (0.6, 0.95)
    assert server.keys == ["Bearer sk-1"] and receipt.error is None


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("", {}),
        ("a..b", {}),
        ("model", {}),
        ("messages.budget", {}),
        ("a.budget", {"a": {"budget": 1}}),
        ("a.budget", {"a.budget.more": 1}),
        ("a.budget", {"temperature": 1.0}),
        ("a.budget", {"": 1}),
    ],
)
def test_a_field_that_has_a_value_already_or_no_name_is_refused(server, field, more):
    with pytest.raises(BadConfig, match="field"):
        ask(server, BudgetPolicy(max_thinking=9), budget_field=field, fields=more)
    assert not server.bodies


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        [],
        None,
        "text",
        {"choices": 3},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {}}]},
    ],
)
def test_an_answer_of_another_shape_is_a_failure(server, answer):
    server.chat = answer
    with pytest.raises(EngineFailure) as caught:
        ask(server, BudgetPolicy(max_thinking=9))
    assert caught.value.hint


def test_an_answer_that_was_filtered_is_a_failure(server):
    choice = ANSWER["choices"][0] | {"finish_reason": "content_filter"}
    server.chat = ANSWER | {"choices": [choice]}
    with pytest.raises(EngineFailure, match="content_filter"):
        ask(server, BudgetPolicy(max_thinking=9))
