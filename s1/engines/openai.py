"""Any server with an OpenAI-compatible completions endpoint: vLLM, SGLang, llama.cpp and others.

    openai:http://127.0.0.1:8000/v1?model=NAME

Works with token ids where the server takes and reports them (exact), with text otherwise (marked inexact). Chat
endpoints cannot continue what a model has begun, so a thinking budget cannot be forced through them.
"""

from __future__ import annotations

import asyncio
import os
import urllib.parse
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from s1.clients.http import ServerClient
from s1.engines.background_loop import BackgroundLoop
from s1.engines.openai_probe import BIAS, Server, probe_server
from s1.engines.requests import check_request, seed_at, single_ids, valid_count
from s1.engines.stops import StopMatcher, TextStops, Vocabulary, plan_stops
from s1.engines.tokenizer import EngineTokenizer, TokenizedEngine
from s1.errors import BadConfig, EngineFailure, Unsupported
from s1.types import Chunk, Continuation, Finish, Stop

MOST_PADDING = 1024
"""More different ids beyond the vocabulary are not padding: the tokenizer belongs to another model."""


def load(
    address: str,
    *,
    model: str | None = None,
    tokenizer: str | None = None,
    context: int | None = None,
    eos: str | None = None,
    assume: str = "",
    api_key_env: str = "OPENAI_API_KEY",
    timeout: float = 300.0,
    retries: int = 4,
    connections: int = 64,
    template: Mapping[str, Any] | None = None,
) -> OpenAIEngine:
    """The engine for a server. An empty address means the environment variable OPENAI_BASE_URL.

    model: needed where the server has several. tokenizer: folder or Hub id; found automatically where the server is
    vLLM. context: in tokens, at most the server's own. eos: the end-of-turn token, where the tokenizer names none.
    assume: extensions that the server supports although it cannot show it, with commas (`openai_probe.EXTENSIONS`).
    api_key_env: the environment variable that holds the key, which is sent to this server and never written down.
    timeout: seconds without an event after which a request fails. retries: how often a refused request, or one that
    never arrived, is repeated. connections: most at once. template: arguments of the chat template.
    """
    url = server_url(address or os.environ.get("OPENAI_BASE_URL", ""))
    if not (timeout >= 1e-3 and retries >= 0 and connections >= 1 and (context is None or context >= 1)):
        raise BadConfig(
            f"Out of range: timeout={timeout}, retries={retries}, connections={connections} or context={context}.",
            "Use timeout > 0, retries >= 0, connections >= 1 and context >= 1.",
        )
    key = os.environ.get(api_key_env, "").strip()
    client = ServerClient(url, key, timeout=timeout, retries=retries, connections=connections)
    names = frozenset(name for name in assume.split(",") if name)
    server, text = probe_server(
        client,
        model=model,
        tokenizer=tokenizer,
        context=context,
        eos=(eos,) if eos else (),
        assume=names,
        template=template,
    )
    return OpenAIEngine(client, server, text)


def server_url(address: str) -> str:
    """The address of a server, checked, without a slash at its end. Raises BadConfig."""
    problem = ""
    try:
        parts = urllib.parse.urlsplit(address)
        _ = parts.port  # reading it checks it
    except ValueError as error:
        problem = f": {error}"
    if problem or parts.scheme not in ("http", "https") or not parts.hostname:
        raise BadConfig(
            f"{address!r} is not the address of a server{problem}.",
            "Write openai:http://127.0.0.1:8000/v1?model=NAME.",
        )
    if parts.username or parts.password:
        raise BadConfig(
            "The address contains a password.", "Put the key in an environment variable; see api_key_env."
        )
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream: token ids, or text where the server reports none."""

    ids: tuple[int, ...]
    text: str
    finish: str | None
    reason: Any
    """`stop_reason` of vLLM: the id or string that ended the stream."""


class OpenAIEngine(TokenizedEngine):
    """Engine over a server. May be used from several event loops; its connections belong to a loop of its own."""

    def __init__(self, client: ServerClient, server: Server, text: EngineTokenizer) -> None:
        name = f"openai:{client.url}?model={urllib.parse.quote(server.model, safe='/')}"
        super().__init__(name, server.context, text)
        self.server, self._client = server, client
        self._padding = set[int]()
        """Ids beyond the vocabulary that the model has drawn; every later request bans them."""
        self._shown: dict[int, bool] = {}
        """Stop token -> whether the server shows it in its text."""
        self._loop = BackgroundLoop("s1-openai")

    async def close(self) -> None:
        """Close the connections. Requests that are still running end with EngineFailure."""
        await self._loop.close(self._client.close())

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix`. Raises BadInput and Unsupported before decoding, EngineFailure afterwards.

        Leaving the iteration closes the connection, which makes servers cancel the request.
        """
        if self._loop.is_closed:
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        check_request(request, context=self.context, vocab_size=self._text.vocab_size)
        self._check_supported(request)
        if request.max_tokens == 0:
            yield Chunk((), "length")
            return
        async with aclosing(self._loop.stream(lambda: self._continue(request))) as chunks:
            async for chunk in chunks:
                yield chunk

    def _check_supported(self, request: Continuation) -> None:
        """Raises Unsupported for what the server would silently ignore."""
        supported, sampling = self.server.supported, request.sampling
        is_random = sampling.temperature > 0
        needed = {
            "top_k": is_random and sampling.top_k > 0,
            "seed": is_random and sampling.seed is not None,
            "min_tokens": request.min_tokens > 0 and not self.server.logit_bias,
        }
        for name in needed:
            if needed[name] and name not in supported:
                raise Unsupported(
                    f"{self.name} is not known to support {name}.",
                    f"If its manual says that it does, add assume={name} to the address; otherwise do without, or "
                    "use a vLLM server.",
                )
        stops = {stop.text for stop in request.stops}
        if "ignore_eos" not in supported and not set(self.eos_texts) <= stops:
            raise Unsupported(
                f"{self.name} ends at its end of turn, which is not among the stops.",
                "Give it as a stop, or add assume=ignore_eos to the address if the server supports that.",
            )
        if self._text.vocabulary is None and any(len(stop.ids) != 1 for stop in request.stops):
            raise Unsupported(
                f"{self.name}: a stop of several tokens cannot be found without the tokenizer.",
                "Give its folder or Hub id: tokenizer=org/name.",
            )

    async def _continue(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        decode = self._by_ids if self.server.ids_out else self._by_text
        got: list[int] = []
        if request.min_tokens and "min_tokens" not in self.server.supported:
            # First the minimum with every end banned, then the rest. The server's cache makes the second prefill cheap.
            ends = [i for text in self.eos_texts for i in self._text.encode(text)[:1]]
            first = replace(request, max_tokens=request.min_tokens, min_tokens=0, stops=())
            async with aclosing(decode(first, (*single_ids(request), *ends))) as chunks:
                async for chunk in chunks:
                    got.extend(chunk.ids)
                    yield replace(chunk, finish=None)
            request = replace(_rest(request, got), min_tokens=0)
        if request.max_tokens <= 0:
            yield Chunk((), "length", exact=self.server.exact)
            return
        async with aclosing(decode(request, ())) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _by_ids(self, request: Continuation, banned: Iterable[int]) -> AsyncGenerator[Chunk, None]:
        """Stops are matched here, on the ids; the server itself ends at those of one token where it can.

        When the model draws an id beyond the vocabulary, the request continues from there with that id banned.
        """
        vocabulary = self._text.vocabulary or Vocabulary(
            lambda token: b"?", self._text.encode, frozenset(single_ids(request))
        )
        matcher = StopMatcher(
            plan_stops(request.stops, vocabulary), vocabulary, min_tokens=request.min_tokens
        )
        exact, got = self.server.exact, list[int]()
        while True:
            padding: int | None = None
            async with aclosing(self._pieces(_rest(request, got), {*banned, *self._padding})) as pieces:
                async for piece in pieces:
                    valid = valid_count(piece.ids, self._text.vocab_size)
                    if valid < len(piece.ids):
                        padding = piece.ids[valid]
                    if len(got) + valid > request.max_tokens:
                        raise EngineFailure(f"{self.name} gave more than {request.max_tokens} tokens.")
                    got.extend(piece.ids[:valid])
                    ids, stop = matcher.feed(piece.ids[:valid])
                    if piece.finish is not None:
                        await _drain(pieces)
                    if stop is not None:
                        yield Chunk(ids, "stop", stop, exact)
                        return
                    if padding is None and piece.finish is not None:
                        finish, stop = self._finished(piece, request)
                        yield Chunk(ids + matcher.flush(), finish, stop, exact)
                        return
                    if ids:
                        yield Chunk(ids, exact=exact)
                    if padding is not None:
                        break
            if padding is None:
                raise self._cut_off()
            if padding in self._padding or len(self._padding) >= MOST_PADDING:
                raise EngineFailure(
                    f"{self.name} drew the id {padding}, which is banned or one of too many beyond the vocabulary.",
                    "Give the tokenizer of the served model: tokenizer=org/name.",
                )
            self._padding.add(padding)

    async def _by_text(self, request: Continuation, banned: Iterable[int]) -> AsyncGenerator[Chunk, None]:
        """Text is turned into ids piece by piece, so counts are estimates."""
        await self._check_shown(request)
        texts, count = TextStops(request.stops), 0
        async with aclosing(self._pieces(request, set(banned))) as pieces:
            async for piece in pieces:
                text, stop = texts.feed(piece.text)
                finish: Finish | None = "stop" if stop else None
                if piece.finish is not None:
                    await _drain(pieces)
                if stop is None and piece.finish is not None:
                    finish, stop = self._finished(piece, request)
                    text += texts.flush()
                ids = self._text.encode(text) if text else ()
                if count + len(ids) > request.max_tokens:
                    ids, finish, stop = ids[: request.max_tokens - count], "length", None
                count += len(ids)
                if ids or finish:
                    yield Chunk(ids, finish, stop, exact=False)
                if finish:
                    return
        raise self._cut_off()

    def _cut_off(self) -> EngineFailure:
        return EngineFailure(
            f"{self.name}: the stream ended in the middle of a reply.", "See the log of the server."
        )

    def _finished(self, piece: Piece, request: Continuation) -> tuple[Finish, Stop | None]:
        """What the server's own end means: the limit, one of the stops, or the end of turn."""
        if piece.finish == "length":
            return "length", None
        if piece.finish != "stop":
            raise EngineFailure(f"{self.name} ended with {piece.finish!r}.", "See the log of the server.")
        for stop in request.stops:
            if piece.reason is not None and piece.reason in (*stop.ids[:1], stop.text):
                return "stop", stop
        for stop in request.stops:
            if stop.text in self.eos_texts:
                return "stop", stop
        raise EngineFailure(
            f"{self.name} ended the turn although only {[s.text for s in request.stops]} should end it.",
            "Its end of turn is not among its eos strings: name it with eos=...",
        )

    async def _check_shown(self, request: Continuation) -> None:
        """Raises Unsupported for a stop token that the server hides, as many do with special tokens.

        A hidden delimiter would never end anything.
        """
        if "stop_token_ids" in self.server.supported:
            return
        for stop in request.stops:
            if stop.text in self.eos_texts or len(stop.ids) != 1:
                continue
            token = stop.ids[0]
            if token not in self._shown:
                text = ""
                if self.server.logit_bias:
                    one = replace(request, max_tokens=1, min_tokens=0, stops=())
                    async with aclosing(self._pieces(one, set(), forced=token)) as pieces:
                        text = "".join([piece.text async for piece in pieces])
                self._shown[token] = stop.text in text
            if not self._shown[token]:
                raise Unsupported(
                    f"{self.name} does not show the token {stop.text!r} in its text, so it could not end there.",
                    "Let the server show special tokens (llama.cpp: --special), or use one that reports ids.",
                )

    async def _pieces(
        self, request: Continuation, banned: set[int], forced: int | None = None
    ) -> AsyncGenerator[Piece, None]:
        """One HTTP request."""
        body = self._body(request, banned, forced)
        async with aclosing(self._client.events("/completions", body)) as events:
            async for event in events:
                piece = self._piece(event.data, request)
                if piece is not None:
                    yield piece

    def _body(self, request: Continuation, banned: set[int], forced: int | None) -> dict[str, Any]:
        server, sampling = self.server, request.sampling
        is_random = sampling.temperature > 0
        body: dict[str, Any] = {
            "model": server.model,
            "prompt": list(request.prefix) if server.ids_in else self._text.decode(request.prefix),
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
        extensions = {
            "top_k": sampling.top_k if is_random else None,
            "seed": seed_at(sampling.seed, len(request.prefix), request.redraw) if is_random else None,
            "min_tokens": request.min_tokens or None,
            "stop_token_ids": single_ids(request),
            "ignore_eos": True,
        }
        return body | {k: v for k, v in extensions.items() if k in server.supported and v is not None}

    def _piece(self, event: Any, request: Continuation) -> Piece | None:
        """An event, checked. None for one without a choice, such as usage."""
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
        if isinstance(seen, list) and self.server.ids_in and tuple(seen) != request.prefix:
            raise EngineFailure(f"{self.name} did not use the prompt that it was given.")
        return Piece(
            tuple(ids), str(choice.get("text") or ""), choice.get("finish_reason"), choice.get("stop_reason")
        )


def _rest(request: Continuation, got: Sequence[int]) -> Continuation:
    """What is left of a request after `got`."""
    return replace(
        request,
        prefix=request.prefix + tuple(got),
        max_tokens=request.max_tokens - len(got),
        min_tokens=max(0, request.min_tokens - len(got)),
    )


async def _drain(pieces: AsyncGenerator[Piece, None]) -> None:
    """Read what follows the last piece, so that the connection can serve the next request."""
    try:
        async with asyncio.timeout(1.0):
            async for _ in pieces:
                pass
    except (TimeoutError, EngineFailure):
        return  # the answer is complete; the connection is given up
