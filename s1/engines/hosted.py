"""Hosted chat APIs that cap thinking by themselves: no engine, because they cannot continue a prefix.

Of a budget policy, only the cap means the same there. Everything else is refused, so that no result looks as
if it had been forced. What the API says about its tokens is taken on trust: receipts are marked inexact.

| API (manuals of November 2026)       | budget_field            | fields                                 |
|--------------------------------------|-------------------------|----------------------------------------|
| vLLM, served with --reasoning-config | `thinking_token_budget` | `skip_special_tokens`: False, where the |
|                                      |                         | end of thinking is a special token     |
| OpenRouter, models with token budgets | `reasoning.max_tokens` |                                        |
| Alibaba Model Studio (Qwen)          | `thinking_budget`       | `enable_thinking`: True                |
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import TYPE_CHECKING, Any

from s1.clients.http import Http
from s1.engines.spec import split_address
from s1.engines.tokenizer import LocalText
from s1.errors import BadConfig, EngineFailure, Unsupported
from s1.types import Finish, Generation, Sampling, Segment

if TYPE_CHECKING:
    from s1.policy import BudgetPolicy

SLACK = 1.1
"""An API that thought more than this times the cap did not keep to it; below, it only counts otherwise."""
ENDS: Mapping[object, Finish] = {"stop": "stop", "length": "length"}


async def think_hosted(
    address: str,
    question: str,
    policy: BudgetPolicy,
    *,
    model: str,
    budget_field: str,
    fields: Mapping[str, object] | None = None,
    sampling: Sampling | None = None,
    tokenizer: str | None = None,
    api_key_env: str = "OPENAI_API_KEY",
    timeout: float = 600.0,
    retries: int = 4,
) -> Generation:
    """One question to a chat endpoint, with the policy's `max_thinking` as the API's own cap.

    address: for example https://host/v1. policy: one with `max_thinking` and nothing else.
    budget_field: where the API takes its cap in tokens, with dots between levels, as its manual says. An effort
    such as "high" is no number of tokens and cannot be named here.
    fields: more of the request, named in the same way, such as the switch that some APIs want beside the number.
    tokenizer: counts the thinking where the API does not report `reasoning_tokens`.

    Raises Unsupported and BadConfig before any request, EngineFailure when the API fails. An answer that came
    is kept: a cap that was not kept to, or tokens that nobody counted, stand in the receipt's `error`. Its `cut`
    says that as many tokens were thought as allowed.
    """
    sampling = sampling or Sampling()
    _check(policy, sampling)
    base, _ = split_address(address)
    counted = LocalText(tokenizer) if tokenizer else None
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
    }
    for path, value in {budget_field: policy.max_thinking, **(fields or {})}.items():
        _put(body, path, value)
    http = Http(base, key=os.environ.get(api_key_env), timeout=timeout, retries=retries, connections=1)
    began = time.perf_counter()
    try:
        answer = await asyncio.to_thread(http.json, "POST", base + "/chat/completions", body)
    finally:
        await http.close()
    return _receipt(answer, question, policy, counted, time.perf_counter() - began)


def _check(policy: BudgetPolicy, sampling: Sampling) -> None:
    if policy.max_thinking is None:
        raise Unsupported("A hosted API needs max_thinking.", "Give a number of tokens.")
    for field in fields_of(policy):
        if field.name != "max_thinking" and getattr(policy, field.name) != field.default:
            raise Unsupported(
                f"A hosted API that only caps its thinking cannot honour {field.name}.",
                "Use a server with a completions endpoint: openai:http://host:8000/v1.",
            )
    if sampling.top_k or sampling.seed is not None:
        raise Unsupported("Chat APIs do not promise top_k or seeds.", "Leave them out.")


def _put(body: dict[str, Any], path: str, value: object) -> None:
    """Set `a.b` of the body. Raises BadConfig for no name, and for a field that has a value already."""
    *outer, last = path.split(".")
    level: Any = body
    for name in outer:
        level = level.setdefault(name, {}) if isinstance(level, dict) else None
    if not path or not all((*outer, last)):
        raise BadConfig(f"A field of the request is named {path!r}.", "Name it as thinking_token_budget.")
    if not isinstance(level, dict) or last in level:
        raise BadConfig(f"The field {path!r} of the request has a value already.", "Name another.")
    level[last] = value


def _receipt(
    answer: Any, question: str, policy: BudgetPolicy, counted: LocalText | None, seconds: float
) -> Generation:
    try:
        choice = answer["choices"][0]
        message: Mapping[str, Any] = choice["message"]
        usage: Mapping[str, Any] = answer.get("usage") or {}
        thinking = str(message.get("reasoning_content") or message.get("reasoning") or "")
        text = str(message.get("content") or "")
        reported = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens")
        total = usage.get("completion_tokens")
        finish = choice.get("finish_reason")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise EngineFailure(
            f"The chat endpoint answered in another shape: {str(answer)[:200]}",
            "Check that the address is that of a chat completions endpoint.",
        ) from error
    if not isinstance(finish, str) or finish not in ENDS:
        raise EngineFailure(f"The chat endpoint ended with {finish!r}.", "See what its manual says of that.")
    thought, said, wrong = 0, 0, None
    if counted is not None:
        thought, said = len(counted.encode(thinking)), len(counted.encode(text))
    elif isinstance(reported, int) and isinstance(total, int) and (reported > 0 or not thinking):
        thought, said = reported, total - reported
    else:  # some report 0 beside a page of thinking
        wrong = Unsupported(
            "The API does not report its reasoning tokens.", "Give the tokenizer: tokenizer=org/name."
        )
    limit = policy.max_thinking or 0
    if thought > SLACK * limit:
        wrong = Unsupported(
            f"The API thought {thought} tokens under a cap of {limit}.",
            "It does not keep to that field for this model, or takes it for an effort: do not compare by it.",
        )
    return Generation(
        question_id="",
        sample=0,
        policy=policy.label,
        segments=(
            Segment((), question, "prompt", "forced"),
            Segment((), thinking, "thinking", "model"),
            Segment((), text, "answer", "model"),
        ),
        thinking_tokens=thought,
        answer_tokens=said,
        forced_tokens=0,
        waits=0,
        cut=thought >= limit,
        finish=ENDS[finish],
        exact=False,
        seconds=seconds,
        error=None if wrong is None else str(wrong),
    )
