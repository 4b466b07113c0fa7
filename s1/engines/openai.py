"""Any server with an OpenAI-compatible completions endpoint: vLLM, SGLang, llama.cpp and others.

    openai:http://127.0.0.1:8000/v1?model=NAME

Works with token ids where the server takes and reports them (exact), with text otherwise (marked inexact). Chat
endpoints cannot continue what a model has begun, so a thinking budget cannot be forced through them.
"""

from __future__ import annotations

import asyncio
import os
import random
import urllib.parse
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from s1.clients.http import RequestFailure, ServerClient
from s1.clients.retry import backoff_seconds
from s1.engines.background_loop import BackgroundLoop
from s1.engines.one_request import Fields, OneRequest, fits_one_request
from s1.engines.openai_completions import Completions, drain, finish_of, goes_on
from s1.engines.openai_probe import Server, probe_server, server_url
from s1.engines.requests import (
    REDRAWS,
    check_request,
    single_ids,
    suppress_early_stops,
    valid_count,
    with_logprobs,
)
from s1.engines.stops import StopMatcher, TextStops, Vocabulary, plan_stops
from s1.engines.tokenizer import EngineTokenizer, TokenizedEngine
from s1.errors import BadConfig, EngineFailure, Unsupported
from s1.formats import encode_after
from s1.types import Chunk, Continuation, Finish, Sampling, Stop, TokenLogprob

if TYPE_CHECKING:
    from s1.prompt import EncodedPrompt

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
    never arrived, is repeated, and how often a broken stream is taken up again without a new token between.
    connections: most at once. template: arguments of the chat template.
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
    return OpenAIEngine(client, server, text, retries)


class OpenAIEngine(TokenizedEngine):
    """Engine over a server. May be used from several event loops; its connections belong to a loop of its own."""

    def __init__(self, client: ServerClient, server: Server, text: EngineTokenizer, retries: int = 4) -> None:
        name = f"openai:{client.url}?model={urllib.parse.quote(server.model, safe='/')}"
        super().__init__(name, server.context, text)
        self.server, self._client, self._retries = server, client, retries
        self._endpoint = Completions(client, server, text, name)
        self._padding = set[int]()
        """Ids beyond the vocabulary that the model has drawn; every later request bans them."""
        self._shown: dict[int, bool] = {}
        """Stop token -> whether the server shows it in its text."""
        self._loop = BackgroundLoop("s1-openai")
        self.plugin = server.plugin
        # Without its tokenizer, each token of a report would be a request.
        self.features = server.features - ({"logprobs"} if text.vocabulary is None else set())

    async def close(self) -> None:
        """Close the connections. Requests that are still running end with EngineFailure."""
        await self._loop.close(self._client.close())

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix`. Raises BadInput and Unsupported before decoding, EngineFailure afterwards.

        Leaving the iteration closes the connection, which makes servers cancel the request.
        """
        if self._loop.is_closed:
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        size = self._text.vocab_size
        check_request(request, context=self.context, vocab_size=size, features=self.features)
        self._check_supported(request)
        if request.max_tokens == 0:
            yield Chunk((), "length")
            return
        known = list[TokenLogprob]()
        if self.server.ids_out:
            vocabulary = self._text.vocabulary or Vocabulary(
                lambda token: b"?", self._text.encode, frozenset(single_ids(request))
            )
            stops = request.stops
            if request.json_schema is not None and self.server.native == "llamacpp":
                # After the JSON llama.cpp draws any of the ends of turn that it knows, not only ours.
                more = vocabulary.added - set(single_ids(request))
                stops += tuple(Stop(self.decode((i,)), (i,)) for i in more)
            plan = plan_stops(stops, vocabulary)
            matcher = StopMatcher(plan, vocabulary, min_tokens=request.min_tokens)
            decode = partial(self._by_ids, matcher, known)
            make = partial(suppress_early_stops, request, matcher, decode)
        else:
            make = partial(self._by_text, request)
        async with aclosing(self._loop.stream(make)) as chunks:
            async for chunk in chunks:
                yield with_logprobs(chunk, known)

    async def in_one_request(
        self, encoded: EncodedPrompt, sampling: Sampling, limit: int
    ) -> OneRequest | None:
        """The whole policy as one request, where the server has the plug-in and it knows all of the policy."""
        if not self.plugin or not fits_one_request(self, encoded):
            return None
        loop = self._loop
        return OneRequest(
            lambda *asked: loop.stream(lambda: self._forced(*asked)), encoded, sampling, limit, self
        )

    async def _forced(self, request: Continuation, fields: Fields) -> AsyncGenerator[Chunk, None]:
        """One request with the plug-in's fields, whose stops are single tokens. A part of it cannot be repeated."""
        stops = {stop.ids[0]: stop for stop in request.stops}
        async with aclosing(self._endpoint.pieces(request, set(), fields=fields)) as pieces:
            async for piece in pieces:
                stop = stops.get(piece.ids[-1]) if piece.ids else None
                if piece.finish is not None:
                    await drain(pieces)
                    finish, ended = finish_of(piece, request, self)
                    yield Chunk(piece.ids[:-1] if stop else piece.ids, finish, stop or ended)
                    return
                if piece.ids:
                    yield Chunk(piece.ids)
        raise self._cut_off()

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
        several = [stop.text for stop in request.stops if len(stop.ids) != 1]
        if request.min_tokens and several and not self.server.logit_bias:
            raise Unsupported(
                f"{self.name} cannot hold back {several[0]!r}, which is several tokens: it ignores logit_bias.",
                "Do without a minimum and use a wait string that is not empty, or use a server with logit_bias.",
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

    async def _by_ids(
        self,
        matcher: StopMatcher,
        known: list[TokenLogprob],
        request: Continuation,
        banned: frozenset[int],
    ) -> AsyncGenerator[Chunk, None]:
        """Stops are matched here, on the ids; the server itself ends at those of one token where it can.

        Several requests, where some tokens must not be drawn at first, where the model draws an id beyond the
        vocabulary (which is banned from then on), and where the connection breaks. banned: not to be drawn at once.
        `known` takes the log-probabilities of the tokens as they come.
        """
        exact, got, failures = self.server.exact, list[int](), 0
        while True:
            before, rest = len(got), request.after(got)
            part, bans = self._part(rest, () if got else banned)
            padding: int | None = None
            failure: EngineFailure = self._cut_off()
            try:
                async with aclosing(self._endpoint.pieces(part, bans | self._padding)) as pieces:
                    async for piece in pieces:
                        valid = valid_count(piece.ids, self._text.vocab_size)
                        if valid < len(piece.ids):
                            padding = piece.ids[valid]
                        got.extend(piece.ids[:valid])
                        known.extend(piece.logprobs[:valid])
                        if len(got) - before > part.max_tokens:
                            raise EngineFailure(f"{self.name} gave more than {part.max_tokens} tokens.")
                        ids, stop = matcher.feed(piece.ids[:valid])
                        if piece.finish is not None:
                            await drain(pieces)
                        if stop is not None:
                            yield Chunk(ids, "stop", stop, exact)
                            return
                        if padding is None and piece.finish is not None and not goes_on(piece, part, rest):
                            finish, stop = finish_of(piece, request, self)
                            yield Chunk(ids + matcher.flush(), finish, stop, exact)
                            return
                        if ids:
                            yield Chunk(ids, exact=exact)
                        if padding is not None:
                            break
            except RequestFailure as error:
                if not error.cut:
                    raise
                failure = error
            if len(got) == request.max_tokens:  # the end was all that the connection lost
                yield Chunk(matcher.flush(), "length", exact=exact)
                return
            if padding is None:
                failures = await self._count_failure(0 if len(got) > before else failures + 1, failure)
                continue
            if padding in self._padding or len(self._padding) >= MOST_PADDING:
                raise EngineFailure(
                    f"{self.name} drew the id {padding}, which is banned or one of too many beyond the vocabulary.",
                    "Give the tokenizer of the served model: tokenizer=org/name.",
                )
            self._padding.add(padding)

    async def _by_text(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """As `_by_ids`; text is turned into ids piece by piece, so counts are estimates."""
        await self._check_shown(request)
        passed, count, failures, redraws, banned = "", 0, 0, 0, set[tuple[int, Stop]]()

        def is_early(held: str) -> bool:
            return count + len(self._encode_part(held)) < request.min_tokens

        texts = TextStops(request.stops, is_early)
        while True:
            before = len(passed) + len(texts.held)
            rest = replace(
                request.after(self._encode_part(passed + texts.held)),
                max_tokens=request.max_tokens - count - len(self._encode_part(texts.held)),
                redraw=request.redraw + REDRAWS * redraws,
            )
            if rest.max_tokens <= 0:
                yield Chunk(
                    self._encode_part(texts.flush())[: request.max_tokens - count], "length", exact=False
                )
                return
            part, bans = self._part(rest, self._beginnings(s for at, s in banned if at == before))
            failure: EngineFailure = self._cut_off()
            try:
                async with aclosing(self._endpoint.pieces(part, bans)) as pieces:
                    async for piece in pieces:
                        text, stop = texts.feed(piece.text)
                        passed += text
                        finish: Finish | None = "stop" if stop and not texts.early else None
                        if piece.finish is not None:
                            await drain(pieces)
                        if stop is None and piece.finish is not None and not goes_on(piece, part, rest):
                            finish, stop = finish_of(piece, request, self)
                            text += texts.flush()
                        ids = self._encode_part(text)
                        if count + len(ids) > request.max_tokens:
                            ids, finish, stop = ids[: request.max_tokens - count], "length", None
                        count += len(ids)
                        if ids or finish:
                            yield Chunk(ids, finish, stop if finish else None, exact=False)
                        if finish:
                            return
                        if texts.early:
                            break
            except RequestFailure as error:
                if not error.cut:
                    raise
                failure = error
            place = len(passed) + len(texts.held)
            if texts.early is None:
                failures = await self._count_failure(0 if place > before else failures + 1, failure)
                continue
            if (place, texts.early) in banned:
                raise EngineFailure(f"{self.name} drew {texts.early.text!r} again, which was excluded.")
            banned = {(at, s) for at, s in banned if at <= place} | {(place, texts.early)}
            redraws, texts.early = redraws + 1, None

    def _part(self, rest: Continuation, banned: Collection[int]) -> tuple[Continuation, set[int]]:
        """The beginning of `rest` that one request of the server decodes, and the ids that it must not draw.

        Bans hold for a whole request. So the token that excludes `banned` is a request of its own, and so is a minimum
        where the server does not know min_tokens. The server's cache makes another prefill cheap.
        """
        bans, tokens, knows = (
            set(banned),
            1 if banned else rest.max_tokens,
            "min_tokens" in self.server.supported,
        )
        if rest.min_tokens and not knows:
            tokens = min(tokens, rest.min_tokens)
            bans |= {*single_ids(rest), *(i for text in self.eos_texts for i in self._text.encode(text)[:1])}
        least = min(rest.min_tokens, tokens) if knows else 0
        return replace(rest, max_tokens=tokens, min_tokens=least), bans

    def _beginnings(self, stops: Iterable[Stop]) -> set[int]:
        """The tokens with which a stop may begin."""
        begun = (self._encode_part(stop.text[:n]) for stop in stops for n in range(1, len(stop.text) + 1))
        return {ids[0] for ids in begun if len(ids) == 1}

    def _encode_part(self, text: str) -> tuple[int, ...]:
        """The ids of a text that follows others."""
        return (encode_after(text, self.encode, self.decode) or self.encode(text)) if text else ()

    async def _count_failure(self, failures: int, failure: EngineFailure) -> int:
        """`failures` in a row without a new token; raises `failure` where they are too many, else waits a little."""
        if failures > self._retries:
            raise failure
        if failures:
            await asyncio.sleep(backoff_seconds(failures - 1, first=0.5, chance=random.random()))
        return failures

    def _cut_off(self) -> EngineFailure:
        return EngineFailure(
            f"{self.name}: the stream ended in the middle of a reply.", "See the log of the server."
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
                    async with aclosing(self._endpoint.pieces(one, set(), forced=token)) as pieces:
                        text = "".join([piece.text async for piece in pieces])
                self._shown[token] = stop.text in text
            if not self._shown[token]:
                raise Unsupported(
                    f"{self.name} does not show the token {stop.text!r} in its text, so it could not end there.",
                    "Let the server show special tokens (llama.cpp: --special), or use one that reports ids.",
                )
