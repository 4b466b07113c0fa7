"""vLLM in this process: its asynchronous engine with prefix caching, prompts and answers as token ids.

A continuation is a new request whose prefix is still in vLLM's cache. Stops of one token end it inside vLLM;
all others are found here, on the streamed ids, and the request is aborted.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from s1.engines.background_loop import BackgroundLoop
from s1.engines.requests import check_request, seed_at, single_ids, valid_count
from s1.engines.spec import options_in
from s1.engines.stops import StopMatcher, StopPlan, plan_stops
from s1.engines.tokenizer import LocalText, has_tokenizer
from s1.errors import BadConfig, BadInput, EngineFailure, MissingExtra, first_line
from s1.types import Chunk, Continuation, Finish, Stop

NEVER = -100.0
"""The bias that keeps the padding of the vocabulary from being drawn; vLLM allows no lower one."""
KINDS: Mapping[str, type] = {
    "context": int,
    "tensor_parallel_size": int,
    "data_parallel_size": int,
    "max_batch": int,
    "memory": float,
    "eager": bool,
}
"""Options that are no texts, for reading them from a spec."""
LOGGING = {"VLLM_LOGGING_STREAM": "ext://sys.stderr", "VLLM_LOGGING_LEVEL": "WARNING"}
"""Set where the environment says nothing else: vLLM logs to standard output, where our answers and JSON go."""


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
) -> VLLMEngine:
    """The engine for a model folder or Hub id. Code from the Hub is never run.

    Every option may stand in the spec as well: vllm:FOLDER?tensor_parallel_size=2&context=8192.
    context: most tokens of prefix and continuation; the model's own when None.
    dtype: "auto" is float32 on the CPU and the checkpoint's own on a GPU.
    tensor_parallel_size, data_parallel_size: as in vLLM. max_batch: most requests decoded at once.
    memory: share of the GPU's memory for weights and cache (vLLM's gpu_memory_utilization). On the CPU the
    cache has the GiB of the environment variable VLLM_CPU_KVCACHE_SPACE.
    eager: no compilation, for a quick start.
    Raises BadInput when there is no such model, BadConfig when vLLM refuses the options.
    """
    for name, value in LOGGING.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "vllm", "vllm") from error
    path, _, query = path.partition("?")
    folder = Path(path).expanduser()
    if not path or (folder.is_dir() and not (folder / "config.json").is_file()):
        raise BadInput(
            f"{path!r} is not a model folder.", "Name one with config.json, or a Hub id (org/name)."
        )
    if folder.is_dir() and not has_tokenizer(folder):
        raise BadInput(f"{path}: no tokenizer beside the model.", "Save it there: save_pretrained(folder).")
    if not folder.is_dir() and (path.startswith((".", "/", "~")) or path.count("/") > 1):
        raise BadInput(f"{path}: no such folder.", "Check the path, or give a Hub id such as org/name.")
    text = LocalText(str(folder) if folder.is_dir() else path)
    given: dict[str, Any] = {
        "context": context,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "data_parallel_size": data_parallel_size,
        "max_batch": max_batch,
        "memory": memory,
        "eager": eager,
    }
    given |= options_in(query, list(given), KINDS)
    options = engine_options(str(folder) if folder.is_dir() else path, **given)
    beside = BackgroundLoop("s1-vllm")

    async def start() -> VLLMEngine:
        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**options))
        return VLLMEngine(llm, text, beside, name=f"vllm:{path}")

    try:
        return beside.call(start())  # no local name here: vLLM's imports keep this frame alive to the end
    except Exception as error:  # its errors have no common base
        beside.stop()
        raise BadConfig(
            f"vLLM cannot start with {path}: {first_line(error)}",
            "Its log above says more; change the options.",
        ) from error


def engine_options(
    path: str,
    *,
    context: int | None,
    dtype: str,
    tensor_parallel_size: int,
    data_parallel_size: int,
    max_batch: int,
    memory: float | None,
    eager: bool,
) -> dict[str, Any]:
    """The arguments of vLLM's engine."""
    from vllm.platforms import current_platform

    if dtype == "auto" and current_platform.is_cpu():
        dtype = "float32"
    options: dict[str, Any] = {
        "model": path,
        "dtype": dtype,
        "tensor_parallel_size": tensor_parallel_size,
        "data_parallel_size": data_parallel_size,
        "max_num_seqs": max_batch,
        "enforce_eager": eager,
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        "generation_config": "vllm",  # the checkpoint's sampling defaults would act unseen
        "disable_log_stats": True,
    }
    if context is not None:
        options["max_model_len"] = context
    if memory is not None:
        options["gpu_memory_utilization"] = memory
    return options


class VLLMEngine:
    """Engine over a running AsyncLLM, which lives in the loop of `beside`. Close it when done."""

    def __init__(self, llm: Any, text: LocalText, beside: BackgroundLoop, *, name: str) -> None:
        self.name, self.llm = name, llm
        self.context = int(llm.model_config.max_model_len)
        self.eos_texts, self.template, self.folder = text.eos_texts, text.template, text.folder
        self._text, self._beside = text, beside
        self.tokenizer = text.tokenizer
        self.logits = int(llm.model_config.get_vocab_size())
        self._tokens = min(text.tokens or self.logits, self.logits)
        self._padding = {i: NEVER for i in range(self._tokens, self.logits)}
        self._numbers = itertools.count()
        self._plans: dict[tuple[Stop, ...], StopPlan] = {}

    def encode(self, text: str) -> tuple[int, ...]:
        return self._text.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        return self._text.decode(ids)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return self._text.render(messages)

    async def close(self) -> None:
        """Abort what runs and end vLLM's processes."""
        if not self._beside.loop.is_closed():
            await self._beside.close(self._shut_down())

    async def _shut_down(self) -> None:
        self.llm.shutdown()
        self.llm = None  # its finalizer must not run when Python is half gone

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `ask.prefix`. Raises BadInput before decoding, EngineFailure when vLLM fails.

        Before `min_tokens`, stops of a single token and the model's EOS are never drawn; a stop of several
        tokens that begins earlier is ordinary output. Leaving the iteration aborts the request.
        """
        if self._beside.loop.is_closed():
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        check_request(ask, context=self.context, tokens=self._tokens)
        if ask.max_tokens == 0:
            yield Chunk((), "length")
            return
        async with aclosing(self._beside.stream(lambda: self._decode(ask))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _decode(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        from vllm.inputs import TokensPrompt

        matcher = self._matcher(ask)
        outputs = self.llm.generate(
            TokensPrompt(prompt_token_ids=list(ask.prefix)), self._params(ask), f"s1-{next(self._numbers)}"
        )
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    made = output.outputs[0]
                    got = tuple(made.token_ids)
                    if valid_count(got, self._tokens) < len(got):
                        raise EngineFailure(
                            f"{self.name} drew an id beyond its vocabulary of {self._tokens}."
                        )
                    ids, stop = matcher.feed(got)
                    if stop is not None:
                        yield Chunk(ids, "stop", stop)
                        return
                    if made.finish_reason is not None:
                        yield Chunk(ids + matcher.flush(), *self._finished(made, ask))
                        return
                    if ids:
                        yield Chunk(ids)
        except EngineFailure:
            raise
        except Exception as error:  # vLLM's errors have no common base
            raise EngineFailure(f"{self.name}: {first_line(error)}", "See vLLM's log above.") from error
        raise EngineFailure(f"{self.name}: the stream ended in the middle.", "See vLLM's log above.")

    def _finished(self, made: Any, ask: Continuation) -> tuple[Finish, Stop | None]:
        if made.finish_reason == "length":
            return "length", None
        for stop in ask.stops:
            if stop.ids == (made.stop_reason,):
                return "stop", stop
        raise EngineFailure(f"{self.name} ended with {made.finish_reason!r}.", "See vLLM's log above.")

    def _matcher(self, ask: Continuation) -> StopMatcher:
        vocabulary = self._text.vocabulary
        assert vocabulary is not None
        plan = self._plans.get(ask.stops)
        if plan is None:
            if len(self._plans) >= 256:
                self._plans.clear()
            plan = self._plans[ask.stops] = plan_stops(ask.stops, vocabulary)
        return StopMatcher(plan, vocabulary, min_tokens=ask.min_tokens)

    def _params(self, ask: Continuation) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = ask.sampling
        sampled = sampling.temperature > 0
        return SamplingParams(
            max_tokens=ask.max_tokens,
            min_tokens=ask.min_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p if sampled else 1.0,
            top_k=sampling.top_k if sampled else 0,
            seed=seed_at(sampling.seed, len(ask.prefix)) if sampled else None,
            stop_token_ids=single_ids(ask),
            ignore_eos=True,  # only the stops of the ask end it
            logit_bias=self._padding or None,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
        )
