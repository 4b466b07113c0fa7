"""Any server with an OpenAI-compatible completions endpoint: vLLM, SGLang, llama.cpp and others.

    openai:http://127.0.0.1:8000/v1?model=NAME

By token ids where the server takes and reports them (exact), by text otherwise (marked inexact). Chat
endpoints cannot continue what a model has begun, so they cannot be forced; see `hosted.py` for those.
"""

from __future__ import annotations

import asyncio
import os
import urllib.parse
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from s1.clients.http import Http
from s1.engines.background_loop import BackgroundLoop
from s1.engines.openai_probe import BIAS, Server, examine
from s1.engines.requests import check_request, seed_at, single_ids, valid_count
from s1.engines.spec import split_address
from s1.engines.stops import StopMatcher, TextStops, Vocabulary, plan_stops
from s1.engines.tokenizer import Text
from s1.errors import BadConfig, EngineFailure, Unsupported
from s1.types import Chunk, Continuation, Finish, Stop

NUMBERS: Mapping[str, type] = {"timeout": float, "retries": int, "connections": int, "context": int}
"""Options that are numbers, for reading them from an address."""
MOST_PADDING = 1024
"""More ids beyond the vocabulary than this are no padding: the tokenizer is that of another model."""


def load(
    address: str,
    *,
    model: str | None = None,
    tokenizer: str | None = None,
    context: int | None = None,
    eos: str | None = None,
    honours: str = "",
    api_key_env: str = "OPENAI_API_KEY",
    timeout: float = 300.0,
    retries: int = 4,
    connections: int = 64,
) -> OpenAIEngine:
    """The engine for a server. Every option may stand in the address: http://host:8000/v1?model=NAME&retries=2.

    model: needed where the server has several. tokenizer: folder or Hub id; found by itself where the server
    is vLLM. context: tokens; the server's own caps it. eos: the end-of-turn token, where the tokenizer does
    not tell. honours: extensions that the server is vouched to honour, with commas (see `server.VOUCHABLE`).
    api_key_env: the environment variable that holds the key; it is sent to this server and written nowhere.
    timeout: seconds of silence after which a request fails. retries: see `http.py`. connections: most at once.
    """
    options: dict[str, Any] = {
        "model": model,
        "tokenizer": tokenizer,
        "context": context,
        "eos": eos,
        "honours": honours,
        "api_key_env": api_key_env,
        "timeout": timeout,
        "retries": retries,
        "connections": connections,
    }
    base, given = split_address(address, list(options), NUMBERS)
    options |= given
    least = {"timeout": 1e-3, "retries": 0, "connections": 1, "context": 1}
    wrong = [n for n, bound in least.items() if options[n] is not None and not options[n] >= bound]
    if wrong:
        raise BadConfig(
            ", ".join(f"{name}={options[name]}" for name in wrong) + " cannot be used.",
            "Use timeout > 0, retries >= 0, connections >= 1 and context >= 1.",
        )
    http = Http(
        base,
        key=os.environ.get(options["api_key_env"]) or None,
        timeout=options["timeout"],
        retries=options["retries"],
        connections=options["connections"],
    )
    server, text = examine(
        http,
        model=options["model"],
        tokenizer=options["tokenizer"],
        context=options["context"],
        eos=(options["eos"],) if options["eos"] else (),
        honours=frozenset(part for part in options["honours"].split(",") if part),
    )
    return OpenAIEngine(http, server, text)


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream: ids, or text where the server reports none."""

    ids: tuple[int, ...]
    text: str
    finish: str | None
    reason: Any
    """`stop_reason` of vLLM: the id or string that ended it."""


class OpenAIEngine:
    """Engine over a server. May be used from several event loops; its connections live in one of their own."""

    def __init__(self, http: Http, server: Server, text: Text) -> None:
        self.name = f"openai:{http.base}?model={urllib.parse.quote(server.model, safe='/')}"
        self.server, self.context = server, server.context
        self.eos_texts, self.template, self.folder = text.eos_texts, text.template, text.folder
        self.tokenizer = text.tokenizer
        self._http, self._text = http, text
        self._padding: set[int] = (
            set()
        )  # ids beyond the vocabulary that the model has drawn: banned from then on
        self._shown: dict[int, bool] = {}
        self._beside = BackgroundLoop("s1-openai")

    def encode(self, text: str) -> tuple[int, ...]:
        return self._text.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._text.decode(ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self._text.render(messages)

    async def close(self) -> None:
        """Hang up. Requests still running end."""
        await self._beside.close(self._http.close())

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `ask.prefix`. Raises BadInput and Unsupported before decoding, EngineFailure afterwards.

        Leaving the iteration closes the connection, by which servers cancel the request.
        """
        if self._beside.loop.is_closed():
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        check_request(ask, context=self.context, tokens=self._text.tokens)
        self._check_honoured(ask)
        if ask.max_tokens == 0:
            yield Chunk((), "length")
            return
        async with aclosing(self._beside.stream(lambda: self._continue(ask))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _check_honoured(self, ask: Continuation) -> None:
        """Refuse what the server would drop."""
        server = self.server

        def refuse(what: str) -> None:
            raise Unsupported(
                f"{self.name} is not known to honour {what}.",
                f"If its manual says that it does, add honours={what} to the address; otherwise do without, "
                "or use a vLLM server.",
            )

        if ask.sampling.temperature > 0 and ask.sampling.top_k and "top_k" not in server.honours:
            refuse("top_k")
        if ask.sampling.temperature > 0 and ask.sampling.seed is not None and "seed" not in server.honours:
            refuse("seed")
        if ask.min_tokens and "min_tokens" not in server.honours and not server.logit_bias:
            refuse("min_tokens")
        if "ignore_eos" not in server.honours and not set(self.eos_texts) <= {
            stop.text for stop in ask.stops
        }:
            raise Unsupported(
                f"{self.name} ends at its end of turn, which is not among the stops.",
                "Give it as a stop, or add honours=ignore_eos to the address if the server honours that.",
            )
        if self._text.vocabulary is None and any(len(stop.ids) != 1 for stop in ask.stops):
            raise Unsupported(
                f"{self.name}: a stop of several tokens cannot be found without the tokenizer.",
                "Give its folder or Hub id: tokenizer=org/name.",
            )

    async def _continue(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        if not ask.min_tokens or "min_tokens" in self.server.honours:
            async for chunk in self._decode(ask, banned=()):
                yield chunk
            return
        # Twice: the minimum with every end banned, then the rest. The server's cache keeps that cheap.
        ends = [i for text in self.eos_texts for i in self._text.encode(text)[:1]]
        first = replace(ask, max_tokens=ask.min_tokens, min_tokens=0, stops=())
        got: list[int] = []
        async for chunk in self._decode(first, banned=(*single_ids(ask), *ends)):
            got.extend(chunk.ids)
            yield replace(chunk, finish=None)
        rest = ask.max_tokens - len(got)
        if rest <= 0:
            yield Chunk((), "length", exact=self.server.exact)
            return
        second = replace(ask, prefix=ask.prefix + tuple(got), max_tokens=rest, min_tokens=0)
        async for chunk in self._decode(second, banned=()):
            yield chunk

    def _decode(self, ask: Continuation, *, banned: Iterable[int]) -> AsyncGenerator[Chunk, None]:
        return self._by_ids(ask, banned) if self.server.ids_out else self._by_text(ask, banned)

    async def _by_ids(self, ask: Continuation, banned: Iterable[int]) -> AsyncGenerator[Chunk, None]:
        """Stops are matched here, on the ids; the server ends at single ones by itself where it can."""
        matcher = self._matcher(ask)
        exact = self.server.exact
        fed: list[int] = []
        while True:
            rest = replace(
                ask,
                prefix=ask.prefix + tuple(fed),
                max_tokens=ask.max_tokens - len(fed),
                min_tokens=max(0, ask.min_tokens - len(fed)),
            )
            padding: int | None = None
            async with aclosing(self._pieces(rest, {*banned, *self._padding})) as pieces:
                async for piece in pieces:
                    valid = valid_count(piece.ids, self._text.tokens)
                    if valid < len(piece.ids):
                        padding = piece.ids[valid]
                    if len(fed) + valid > ask.max_tokens:
                        raise EngineFailure(f"{self.name} gave more than {ask.max_tokens} tokens.")
                    fed.extend(piece.ids[:valid])
                    ids, stop = matcher.feed(piece.ids[:valid])
                    if piece.finish is not None:
                        await _read_out(pieces)
                    if stop is not None:
                        yield Chunk(ids, "stop", stop, exact)
                        return
                    if padding is None and piece.finish is not None:
                        finish, stop = self._finished(piece, ask)
                        yield Chunk(ids + matcher.flush(), finish, stop, exact)
                        return
                    if ids:
                        yield Chunk(ids, exact=exact)
                    if padding is not None:
                        break
            if padding is None or padding in self._padding or len(self._padding) >= MOST_PADDING:
                raise EngineFailure(
                    f"{self.name}: the stream ended in the middle."
                    if padding is None
                    else f"{self.name} drew the id {padding}, which is beyond the vocabulary, against a ban.",
                    "See the log of the server."
                    if padding is None
                    else "Give the tokenizer of the served model: tokenizer=org/name.",
                )
            self._padding.add(padding)

    def _matcher(self, ask: Continuation) -> StopMatcher:
        vocabulary = self._text.vocabulary or Vocabulary(
            lambda token: b"?", self._text.encode, frozenset(single_ids(ask))
        )
        return StopMatcher(plan_stops(ask.stops, vocabulary), vocabulary, min_tokens=ask.min_tokens)

    async def _by_text(self, ask: Continuation, banned: Iterable[int]) -> AsyncGenerator[Chunk, None]:
        """Text is turned into ids piece by piece, so counts are estimates."""
        await self._check_shown(ask)
        texts, count = TextStops(ask.stops), 0
        async with aclosing(self._pieces(ask, set(banned))) as pieces:
            async for piece in pieces:
                text, stop = texts.feed(piece.text)
                finish: Finish | None = "stop" if stop else None
                if piece.finish is not None:
                    await _read_out(pieces)
                if stop is None and piece.finish is not None:
                    finish, stop = self._finished(piece, ask)
                    text += texts.flush()
                ids = self._text.encode(text) if text else ()
                if count + len(ids) > ask.max_tokens:
                    ids, finish, stop = ids[: ask.max_tokens - count], "length", None
                count += len(ids)
                if ids or finish:
                    yield Chunk(ids, finish, stop, exact=False)
                if finish:
                    return
        raise EngineFailure(f"{self.name}: the stream ended in the middle.", "See the log of the server.")

    def _finished(self, piece: Piece, ask: Continuation) -> tuple[Finish, Stop | None]:
        """What the server's own end means: the limit, one of the stops, or the end of turn."""
        if piece.finish == "length":
            return "length", None
        if piece.finish != "stop":
            raise EngineFailure(f"{self.name} ended with {piece.finish!r}.", "See the log of the server.")
        for stop in ask.stops:
            if piece.reason is not None and piece.reason in (*stop.ids[:1], stop.text):
                return "stop", stop
        for stop in ask.stops:
            if stop.text in self.eos_texts:
                return "stop", stop
        raise EngineFailure(
            f"{self.name} ended the turn where only {[s.text for s in ask.stops]} should end it.",
            "Its own end of turn is not among its eos strings: name it with eos=...",
        )

    async def _check_shown(self, ask: Continuation) -> None:
        """Servers often hide special tokens: a delimiter that is never shown would never end anything."""
        if "stop_token_ids" in self.server.honours:
            return
        for stop in ask.stops:
            if stop.text in self.eos_texts or len(stop.ids) != 1:
                continue
            token = stop.ids[0]
            if token not in self._shown:
                said = ""
                if self.server.logit_bias:
                    only = replace(ask, max_tokens=1, min_tokens=0, stops=())
                    async with aclosing(self._pieces(only, set(), forced=token)) as pieces:
                        async for piece in pieces:
                            said += piece.text
                            if piece.finish:
                                break
                self._shown[token] = stop.text in said
            if not self._shown[token]:
                raise Unsupported(
                    f"{self.name} does not show the token {stop.text!r} in its text, so it could not end there.",
                    "Let the server show special tokens (llama.cpp: --special), or use one that reports ids.",
                )

    async def _pieces(
        self, ask: Continuation, banned: set[int], forced: int | None = None
    ) -> AsyncGenerator[Piece, None]:
        """One request."""
        body = self._body(ask, banned, forced)
        async with aclosing(self._http.events(self._http.base + "/completions", body)) as events:
            async for event in events:
                piece = self._piece(event, ask)
                if piece is not None:
                    yield piece

    def _body(self, ask: Continuation, banned: set[int], forced: int | None) -> dict[str, Any]:
        server, sampling = self.server, ask.sampling
        body: dict[str, Any] = {
            "model": server.model,
            "prompt": list(ask.prefix) if server.ids_in else self._text.decode(ask.prefix),
            "max_tokens": ask.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p if sampling.temperature > 0 else 1.0,
            "stream": True,
            "presence_penalty": 0.0,  # said, because a server may take other defaults from the checkpoint
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
        if "top_k" in server.honours and sampling.temperature > 0:
            body["top_k"] = sampling.top_k
        if "seed" in server.honours and sampling.temperature > 0 and sampling.seed is not None:
            body["seed"] = seed_at(sampling.seed, len(ask.prefix))
        if "min_tokens" in server.honours and ask.min_tokens:
            body["min_tokens"] = ask.min_tokens
        if "stop_token_ids" in server.honours:
            body["stop_token_ids"] = single_ids(ask)
        if "ignore_eos" in server.honours:
            body["ignore_eos"] = True
        return body

    def _piece(self, event: Any, ask: Continuation) -> Piece | None:
        """An event, checked. None for one without a choice (usage)."""
        if isinstance(event, dict) and event.get("error"):
            error = event["error"]
            told = error.get("message", error) if isinstance(error, dict) else error
            raise EngineFailure(f"{self.name} failed: {str(told)[:300]}", "See the log of the server.")
        choices = event.get("choices") if isinstance(event, dict) else None
        if choices == []:
            return None
        choice = choices[0] if isinstance(choices, list) else None
        if not isinstance(choice, dict):
            raise EngineFailure(f"{self.name} sent an event without a choice: {str(event)[:200]}")
        ids: Any = choice.get("token_ids") if self.server.ids_out else ()
        if ids is None and choice.get("finish_reason"):
            ids = ()
        if not isinstance(ids, (list, tuple)) or not all(type(i) is int for i in ids):
            raise EngineFailure(f"{self.name} sent an event without token ids: {str(event)[:200]}")
        seen = choice.get("prompt_token_ids")
        if isinstance(seen, list) and self.server.ids_in and tuple(seen) != ask.prefix:
            raise EngineFailure(f"{self.name} did not use the prompt that it was given.")
        return Piece(
            tuple(ids), str(choice.get("text") or ""), choice.get("finish_reason"), choice.get("stop_reason")
        )


async def _read_out(pieces: AsyncGenerator[Piece, None]) -> None:
    """Read what follows the last piece, so that the connection can serve the next request."""
    try:
        async with asyncio.timeout(1.0):
            async for _ in pieces:
                pass
    except (TimeoutError, EngineFailure):
        return  # the answer is complete; the connection is given up
