"""What is sent to a completions endpoint, and what comes back."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from s1.clients.http import ServerClient
from s1.engines.openai_native import PATHS, Piece, native_body, native_piece
from s1.engines.openai_probe import BIAS, Server
from s1.engines.requests import seed_at, single_ids
from s1.engines.tokenizer import EngineTokenizer, TokenizedEngine
from s1.errors import EngineFailure
from s1.terminal import valid_text
from s1.types import Continuation, Finish, Stop, TokenLogprob

EVENT_SECONDS, MOST_EVENT_SECONDS, MOST_EVENT_TOKENS = 0.0125, 0.25, 16
"""A server that can put several tokens into one event is asked for one about every EVENT_SECONDS times the number of
running streams, within the two limits: an event costs both sides 0.1 to 0.3 ms of processor time, however many tokens
it has."""


class Completions:
    """The completions endpoint of one server, and how fast it decodes. `name` is the engine's, for errors."""

    def __init__(self, client: ServerClient, server: Server, text: EngineTokenizer, name: str) -> None:
        self._client, self._server, self._text, self._name = client, server, text, name
        self._streams, self._token_seconds = 0, math.inf

    async def pieces(
        self,
        request: Continuation,
        banned: set[int],
        forced: int | None = None,
        fields: Mapping[str, Any] | None = None,
    ) -> AsyncGenerator[Piece, None]:
        """One HTTP request. banned, forced, fields: see `body_of`."""
        server, last = self._server, 0.0
        path = server.root + PATHS[server.native] if server.native else "/completions"
        self._streams += 1
        try:
            body = body_of(request, server, self._text, banned, forced, fields)
            if server.is_vllm and (many := self._tokens_of_an_event(request)) > 1:
                body["stream_interval"] = many
            async with aclosing(self._client.events(path, body)) as events:
                async for event in events:
                    piece = piece_of(event.data, request, server, self._name)
                    if piece is None:
                        continue
                    now = time.perf_counter()
                    if piece.ids and last:
                        self._decoded(len(piece.ids), now - last)
                    last = now
                    yield piece
        finally:
            self._streams -= 1

    def _tokens_of_an_event(self, request: Continuation) -> int:
        """How many tokens each event should have. What follows a stop that only we see would be decoded in vain."""
        if any(len(stop.ids) != 1 for stop in request.stops):
            return 1
        seconds = min(MOST_EVENT_SECONDS, EVENT_SECONDS * self._streams)
        return max(1, min(MOST_EVENT_TOKENS, int(seconds / max(self._token_seconds, 1e-6))))

    def _decoded(self, tokens: int, seconds: float) -> None:
        each = seconds / tokens
        known = self._token_seconds < math.inf
        self._token_seconds = self._token_seconds + (each - self._token_seconds) / 16 if known else each


def body_of(
    request: Continuation,
    server: Server,
    text: EngineTokenizer,
    banned: set[int],
    forced: int | None,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The body of one request. banned: ids that it must not draw; forced: the only id that it may draw.

    fields: those of s1's plug-in, which forces the whole of a request with the request's own seed.
    """
    if server.native:
        return native_body(server.native, request, banned)
    sampling = request.sampling
    is_random = sampling.temperature > 0
    body: dict[str, Any] = {
        "model": server.model,
        "prompt": list(request.prefix) if server.ids_in else text.decode(request.prefix),
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p if is_random else 1.0,
        "stream": True,
        "presence_penalty": 0.0,  # explicit, because a server may take other defaults from the checkpoint
        "frequency_penalty": 0.0,
    }
    if server.ids_out:
        body["return_token_ids"] = True
    bias = {str(i): -BIAS for i in sorted(banned)} | ({str(forced): BIAS} if forced is not None else {})
    if bias:
        body["logit_bias"] = bias
    if server.is_vllm:
        body |= {
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "top_k": 0,
            "add_special_tokens": False,
            "skip_special_tokens": False,
        }
    if request.logprobs is not None:
        body |= {"logprobs": request.logprobs, "return_tokens_as_token_ids": True}
    if request.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if fields:
        body["vllm_xargs"] = dict(fields)
    seed = sampling.seed if fields else seed_at(sampling.seed, len(request.prefix), request.redraw)
    extensions = {
        "top_k": sampling.top_k if is_random else None,
        "seed": seed if is_random else None,
        "min_tokens": request.min_tokens or None,
        "stop_token_ids": single_ids(request),
        "ignore_eos": True,
    }
    return body | {k: v for k, v in extensions.items() if k in server.supported and v is not None}


def piece_of(event: Any, request: Continuation, server: Server, name: str) -> Piece | None:
    """An event, checked; None for one without a choice, such as usage. `name` is the engine's, for errors."""
    if server.native:
        return native_piece(server.native, event, name)
    choices = event.get("choices") if isinstance(event, dict) else None
    if choices == []:
        return None
    choice = choices[0] if isinstance(choices, list) else None
    if not isinstance(choice, dict):
        raise EngineFailure(f"{name} sent an event without a choice: {str(event)[:200]}")
    ids: Any = choice.get("token_ids") if server.ids_out else ()
    if ids is None and choice.get("finish_reason"):
        ids = ()
    if not isinstance(ids, (list, tuple)) or not all(type(i) is int for i in ids):
        raise EngineFailure(f"{name} sent an event without token ids: {str(event)[:200]}")
    report = choice.get("logprobs") if request.logprobs is not None else None
    seen = choice.get("prompt_token_ids")
    if isinstance(seen, list) and server.ids_in and tuple(seen) != request.prefix:
        raise EngineFailure(f"{name} did not use the prompt that it was given.")
    return Piece(
        tuple(ids),
        valid_text(str(choice.get("text") or "")),
        choice.get("finish_reason"),
        choice.get("stop_reason"),
        _logprobs(report, ids, request) if report and ids else (),
    )


def _logprobs(found: Any, ids: Sequence[int], request: Continuation) -> tuple[TokenLogprob, ...]:
    """vLLM's report of the tokens of one event, in which each token is "token_id:" and its id."""
    tops = found.get("top_logprobs") or [{}] * len(ids)
    out = []
    for token, logprob, top in zip(ids, found["token_logprobs"], tops, strict=True):
        pairs = sorted(((p, int(name.partition(":")[2])) for name, p in (top or {}).items()), reverse=True)
        out.append(TokenLogprob(token, logprob, tuple((i, p) for p, i in pairs[: request.logprobs])))
    return tuple(out)


def finish_of(piece: Piece, request: Continuation, engine: TokenizedEngine) -> tuple[Finish, Stop | None]:
    """What the server's own end means: the limit, one of the stops, or the end of turn. Raises EngineFailure."""
    if piece.finish == "length":
        return "length", None
    if piece.finish != "stop":
        raise EngineFailure(f"{engine.name} ended with {piece.finish!r}.", "See the log of the server.")
    for stop in request.stops:
        if piece.reason is not None and piece.reason in (*stop.ids[:1], stop.text):
            return "stop", stop
    for stop in request.stops:
        if stop.text in engine.eos_texts:
            return "stop", stop
    raise EngineFailure(
        f"{engine.name} ended the turn although only {[s.text for s in request.stops]} should end it.",
        "Its end of turn is not among its eos strings: name it with eos=...",
    )


def goes_on(piece: Piece, part: Continuation, rest: Continuation) -> bool:
    """Whether a request ended only because it was a part."""
    return piece.finish == "length" and part.max_tokens < rest.max_tokens


async def drain(pieces: AsyncGenerator[Piece, None]) -> None:
    """Read what follows the last piece, so that the connection can serve the next request."""
    try:
        async with asyncio.timeout(1.0):
            async for _ in pieces:
                pass
    except (TimeoutError, EngineFailure):
        return  # the answer is complete; the connection is given up
