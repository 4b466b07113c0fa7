"""The own endpoints of llama.cpp and SGLang, which take and give token ids where their OpenAI ones do not.

llama.cpp: POST /completion with a list of ids as `prompt` and `return_tokens`; GET /props states the context.
SGLang: POST /generate with `input_ids`, answered with `output_ids`; written from its documentation and never run. Its
stream repeats the ids from the start, so the whole reply is asked for at once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from s1.engines.requests import seed_at, single_ids
from s1.errors import EngineFailure
from s1.types import Continuation, TokenLogprob

PATHS = {"llamacpp": "/completion", "sglang": "/generate"}
"""What each server calls itself as the owner of its models, and its endpoint."""
SEEDS = 2**31
BANNED = -1e5
"""A logit bias that no token survives."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream: token ids, or text where the server reports none."""

    ids: tuple[int, ...]
    text: str
    finish: str | None
    reason: Any
    """The id or string that ended the stream, where the server says it."""
    logprobs: tuple[TokenLogprob, ...] = ()
    """One for each of `ids`, where they were asked for."""


def native_body(owner: str, request: Continuation, banned: set[int]) -> dict[str, Any]:
    """The body of one request. banned: ids that it must not draw. Every filter that is not asked for is neutral."""
    sampling = request.sampling
    is_random = sampling.temperature > 0
    top_k = sampling.top_k if is_random and sampling.top_k > 0 else None
    top_p = sampling.top_p if is_random else 1.0
    seed = seed_at(sampling.seed, len(request.prefix), request.redraw) if is_random else None
    if owner == "sglang":
        parameters: dict[str, Any] = {
            "max_new_tokens": request.max_tokens, "temperature": sampling.temperature, "top_p": top_p,
            "top_k": top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
            "frequency_penalty": 0.0, "stop_token_ids": single_ids(request), "ignore_eos": True,
            "logit_bias": {str(i): BANNED for i in sorted(banned)},
        }  # fmt: skip
        if request.json_schema is not None:
            parameters["json_schema"] = request.json_schema
        if seed is not None:
            parameters["sampling_seed"] = seed % SEEDS
        return {"input_ids": list(request.prefix), "sampling_params": parameters, "stream": False}
    body: dict[str, Any] = {
        "prompt": list(request.prefix), "n_predict": request.max_tokens, "temperature": sampling.temperature,
        "top_k": top_k or 0, "top_p": top_p, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
        "presence_penalty": 0.0, "frequency_penalty": 0.0, "dry_multiplier": 0.0, "xtc_probability": 0.0,
        "samplers": ["temperature", "top_k", "top_p"], "logit_bias": [[i, False] for i in sorted(banned)],
        "stream": True, "return_tokens": True,
    }  # fmt: skip
    if request.json_schema is not None:
        body["json_schema"] = json.loads(request.json_schema)
    if request.logprobs is not None:
        body["n_probs"] = max(1, request.logprobs)  # 0 switches the report off
    return body | ({"seed": seed % SEEDS} if seed is not None else {})


def native_piece(owner: str, event: Any, name: str) -> Piece:
    """An event, checked. `name` is the engine's, for errors. Raises EngineFailure."""
    ids: Any = (
        event.get("tokens" if owner == "llamacpp" else "output_ids") if isinstance(event, dict) else None
    )
    if not isinstance(ids, list) or not all(type(i) is int for i in ids):
        raise EngineFailure(f"{name} sent an event without token ids: {str(event)[:200]}")
    finish: str | None = None
    reason: Any = None
    if owner == "sglang":
        found = (event.get("meta_info") or {}).get("finish_reason") or {}
        finish, reason = found.get("type"), found.get("matched")
    elif event.get("stop"):
        finish = "length" if event.get("stop_type") == "limit" else "stop"
    reported = event.get("completion_probabilities") or ()
    return Piece(tuple(ids), "", finish, reason, tuple(map(_logprob, reported)))


def _logprob(found: Any) -> TokenLogprob:
    """llama.cpp's report of one token."""
    top = found.get("top_logprobs") or ()
    return TokenLogprob(found["id"], found["logprob"], tuple((each["id"], each["logprob"]) for each in top))
