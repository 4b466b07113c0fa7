"""vLLM in this process: its asynchronous engine with prefix caching, prompts and answers as token ids.

A continuation is a new request whose prefix is still in vLLM's cache. vLLM itself ends a request at stops of
one token; all others are found here, in the streamed ids, and the request is aborted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from s1.engines.background_loop import BackgroundLoop
from s1.engines.model_files import find_model, plain_source
from s1.engines.one_request import Fields, OneRequest, fits_one_request
from s1.engines.requests import (
    check_request,
    seed_at,
    single_ids,
    suppress_early_stops,
    valid_count,
    with_logprobs,
)
from s1.engines.stops import StopMatcher, plan_stops
from s1.engines.tokenizer import LocalTokenizer, TokenizedEngine, tokenizer_at
from s1.errors import BadConfig, EngineFailure, MissingExtra, first_line
from s1.types import Chunk, Continuation, Finish, Sampling, Stop, TokenLogprob

if TYPE_CHECKING:
    from s1.prompt import EncodedPrompt

NEVER = -100.0
"""The logit bias for padding ids; vLLM allows no lower one."""
LOGGING = {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Defaults for the environment: vLLM logs to standard output, where our answers and JSON go."""


def load(
    path: str,
    *,
    context: int | None = None,
    dtype: str = "auto",
    tensor_parallel_size: int = 1,
    data_parallel_size: int = 1,
    max_batch: int = 256,
    memory: float | None = None,
    eager: bool = False,
    template: Mapping[str, Any] | None = None,
) -> VLLMEngine:
    """The engine for a model folder or Hub id. Code from the Hub is never run.

    context: most tokens of prefix and continuation; None is the model's own.
    dtype: "auto" is float32 on the CPU and the checkpoint's own on a GPU.
    tensor_parallel_size, data_parallel_size: as in vLLM. max_batch: most requests decoded at once.
    memory: share of the GPU's memory for weights and cache (vLLM's gpu_memory_utilization). On the CPU, the
    environment variable VLLM_CPU_KVCACHE_SPACE sets the size of the cache in GiB.
    eager: no compilation, for a quick start. template: arguments of the chat template.
    Raises BadInput when there is no such model, BadConfig when vLLM rejects the options.
    """
    for name, value in LOGGING.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "vllm", "vllm") from error
    path = plain_source(find_model(path), "vllm")
    text = tokenizer_at(path, template)
    if dtype == "auto" and current_platform.is_cpu():
        dtype = "float32"
    arguments: dict[str, Any] = {
        "model": path,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "data_parallel_size": data_parallel_size,
        "max_num_seqs": max_batch,
        "enforce_eager": eager,
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "generation_config": "vllm",  # the checkpoint's own sampling defaults would apply unseen
        "disable_log_stats": True,
    }
    if context is not None:
        arguments["max_model_len"] = context
    if memory is not None:
        arguments["gpu_memory_utilization"] = memory
    loop = BackgroundLoop("s1-vllm")

    async def start() -> VLLMEngine:
        return VLLMEngine(
            AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments)), text, loop, name=f"vllm:{path}"
        )

    try:
        return loop.call(start())  # no local name here: vLLM's imports keep this frame alive to the end
    except Exception as error:  # vLLM's errors have no common base
        loop.stop()
        raise BadConfig(
            f"vLLM cannot start with {path}: {first_line(error)}",
            "See vLLM's log above and change the options.",
        ) from error


class VLLMEngine(TokenizedEngine):
    """Engine over a running AsyncLLM, which lives in a background event loop. Close it when done."""

    features = frozenset({"json_schema", "logprobs"})

    def __init__(self, llm: Any, text: LocalTokenizer, loop: BackgroundLoop, *, name: str) -> None:
        super().__init__(name, int(llm.model_config.max_model_len), text)
        assert text.vocabulary is not None and text.vocab_size is not None
        self.llm, self._loop = llm, loop
        self.logits = int(llm.model_config.get_vocab_size())
        self._vocab_size = min(text.vocab_size, self.logits)
        self._padding = {i: NEVER for i in range(self._vocab_size, self.logits)}
        self._numbers = itertools.count()
        self._vocabulary = text.vocabulary
        self._plan_of = lru_cache(maxsize=256)(partial(plan_stops, vocabulary=text.vocabulary))
        self.plugin: bool | None = None
        """Whether s1's plug-in is in this vLLM; None: not yet tried."""

    async def close(self) -> None:
        """Abort running requests and end vLLM's processes."""
        await self._loop.close(self._shut_down())

    async def _shut_down(self) -> None:
        self.llm.shutdown()
        self.llm = None  # its finalizer must not run while Python is shutting down

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix`. Raises BadInput before decoding, EngineFailure when vLLM fails.

        Before `min_tokens` no stop comes and the model's EOS is never drawn. Leaving the iteration aborts the request.
        """
        if self._loop.is_closed:
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        check_request(request, context=self.context, vocab_size=self._vocab_size, features=self.features)
        if request.max_tokens == 0:
            yield Chunk((), "length")
            return
        matcher = StopMatcher(self._plan_of(request.stops), self._vocabulary, min_tokens=request.min_tokens)
        known = list[TokenLogprob]()
        decode = partial(self._decode, matcher, known=known)
        made = self._loop.stream(lambda: suppress_early_stops(request, matcher, decode))
        async with aclosing(made) as chunks:
            async for chunk in chunks:
                yield with_logprobs(chunk, known)

    async def in_one_request(
        self, encoded: EncodedPrompt, sampling: Sampling, limit: int
    ) -> OneRequest | None:
        """The whole policy as one request, where the plug-in is there and knows all of it."""
        if self.plugin is None:
            self.plugin = await self._has_plugin()
        if not self.plugin or not fits_one_request(self, encoded):
            return None
        return OneRequest(self._whole, encoded, sampling, limit, self)

    async def _has_plugin(self) -> bool:
        """The plug-in refuses a negative budget, which without it means nothing."""
        try:
            async with aclosing(self._whole(Continuation((0,), 1), {"max_thinking": -1})) as chunks:
                return [chunk async for chunk in chunks] == []
        except EngineFailure as failure:
            return "max_thinking" in str(failure)

    def _whole(self, request: Continuation, fields: Fields) -> AsyncGenerator[Chunk, None]:
        check_request(request, context=self.context, vocab_size=self._vocab_size)
        matcher = StopMatcher(self._plan_of(request.stops), self._vocabulary)
        return self._loop.stream(lambda: self._decode(matcher, request, frozenset(), fields))

    async def _decode(
        self,
        matcher: StopMatcher,
        request: Continuation,
        banned: frozenset[int],
        fields: Fields | None = None,
        known: list[TokenLogprob] | None = None,
    ) -> AsyncGenerator[Chunk, None]:
        """`known` takes the log-probabilities of the tokens as they come."""
        from vllm.inputs import TokensPrompt

        # A bias holds for a whole request, so the token that excludes `banned` is a request of its own.
        part = replace(request, max_tokens=1, min_tokens=min(1, request.min_tokens)) if banned else request
        prompt = TokensPrompt(prompt_token_ids=list(request.prefix))
        outputs = self.llm.generate(prompt, self._params(part, banned, fields), f"s1-{next(self._numbers)}")
        got: tuple[int, ...] = ()
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    made = output.outputs[0]
                    got = tuple(made.token_ids)
                    if valid_count(got, self._vocab_size) < len(got):
                        raise EngineFailure(
                            f"{self.name} drew an id outside its vocabulary of {self._vocab_size} tokens."
                        )
                    if known is not None and made.logprobs:
                        known += [_logprob(i, at, request) for i, at in zip(got, made.logprobs, strict=True)]
                    ids, stop = matcher.feed(got)
                    if stop is not None:
                        yield Chunk(ids, "stop", stop)
                        return
                    if made.finish_reason == "length" and part.max_tokens < request.max_tokens:
                        if ids:
                            yield Chunk(ids)
                        break
                    if made.finish_reason is not None:
                        yield Chunk(ids + matcher.flush(), *self._finished(made, request))
                        return
                    if ids:
                        yield Chunk(ids)
        except EngineFailure:
            raise
        except Exception as error:  # vLLM's errors have no common base
            raise EngineFailure(f"{self.name}: {first_line(error)}", "See vLLM's log above.") from error
        if not got or part.max_tokens == request.max_tokens:
            raise EngineFailure(f"{self.name}: the stream ended early.", "See vLLM's log above.")
        async with aclosing(self._decode(matcher, request.after(got), frozenset(), known=known)) as chunks:
            async for chunk in chunks:
                yield chunk

    def _finished(self, made: Any, request: Continuation) -> tuple[Finish, Stop | None]:
        if made.finish_reason == "length":
            return "length", None
        for stop in request.stops:
            if stop.ids == (made.stop_reason,):
                return "stop", stop
        raise EngineFailure(f"{self.name} ended with {made.finish_reason!r}.", "See vLLM's log above.")

    def _params(self, request: Continuation, banned: frozenset[int], fields: Fields | None = None) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        sampling, schema = request.sampling, request.json_schema
        sampled = sampling.temperature > 0
        seed = sampling.seed if fields else seed_at(sampling.seed, len(request.prefix), request.redraw)
        return SamplingParams(
            max_tokens=request.max_tokens,
            min_tokens=request.min_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampled else 1.0,
            top_k=sampling.top_k if sampled else 0,
            seed=seed if sampled else None,
            logprobs=request.logprobs,
            structured_outputs=schema and StructuredOutputsParams(json=schema),
            extra_args=dict(fields) if fields else None,
            stop_token_ids=single_ids(request),
            ignore_eos=True,  # only the request's stops end it
            logit_bias=self._padding | dict.fromkeys(banned, NEVER) or None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )


def _logprob(token: int, at: Mapping[int, Any], request: Continuation) -> TokenLogprob:
    """What vLLM reports at one place: the drawn token, and the likeliest with their ranks from 1."""
    top = sorted((found.rank, i, found.logprob) for i, found in at.items())
    return TokenLogprob(
        token, at[token].logprob, tuple((i, p) for rank, i, p in top if rank <= (request.logprobs or 0))
    )
