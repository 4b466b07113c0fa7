"""The Hugging Face engine: a causal language model in this process, on CPU or GPU.

Requests from any number of coroutines run in one batch (`hf_batch.py`), stepped by one background thread. It
serves models with an ordinary cache (every layer attends to all earlier tokens) and refuses others.
Determinism: on the CPU the default is float32. Greedy results do not depend on what else is in the batch,
except when two logits are closer than the rounding of a matrix product, because the order of its sums may
change with the batch size.
"""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch

from s1.engines.hf_batch import Batch
from s1.engines.hf_checkpoint import checkpoint_facts, default_cache_bytes
from s1.engines.hf_kv_cache import WIDTH
from s1.engines.hf_row import BatchCounts, BatchRow
from s1.engines.model_files import DTYPES, find_model, load_tokenizer, load_weights
from s1.engines.requests import check_request, suppress_early_stops, with_logprobs
from s1.engines.stops import StopMatcher, plan_stops
from s1.engines.tokenizer import TokenizedEngine, eos_ids, tokenizer_of
from s1.errors import BadConfig, EngineFailure, first_line
from s1.types import Chunk, Continuation

DELIVERY_SECONDS = 0.05
"""Tokens of running requests are delivered at most this often: waking a coroutine per token is expensive."""


def load(
    path: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    context: int | None = None,
    max_batch: int = 64,
    cache_bytes: int | None = None,
    prefill_tokens: int = 4096,
    threads: int | None = None,
    base: str | None = None,
    template: Mapping[str, Any] | None = None,
) -> HFEngine:
    """The engine for what `find_model` finds: a folder, a Hub id, a GGUF file, an adapter or a named model.

    device: "auto" is a GPU if there is one. dtype: "auto" is float32 on the CPU and the checkpoint's own on a
    GPU. threads: torch's CPU threads; None leaves them alone. base: the base model of an
    adapter, when it is not where the adapter says. template: arguments of the chat template, such as
    {"enable_thinking": True}. For the others see `HFEngine`.
    Raises BadInput for a missing or unreadable model or tokenizer, Unsupported for a model that this engine
    cannot serve.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype != "auto" and dtype not in DTYPES:
        raise BadConfig(f"Unknown dtype {dtype!r}.", f"Choose auto, {', '.join(DTYPES)}.")
    files = find_model(path, base)
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    if threads is not None:
        torch.set_num_threads(threads)
    tokenizer = load_tokenizer(files)
    engine = HFEngine(
        load_weights(files, dtype).to(device),
        tokenizer,
        name=f"hf:{files.name}",
        context=context,
        max_batch=max_batch,
        cache_bytes=cache_bytes,
        prefill_tokens=prefill_tokens,
        template=template,
    )
    engine.folder = files.format_folder
    return engine


class HFEngine(TokenizedEngine):
    """Engine over a loaded transformers model. Close it when done. Several event loops may use it.

    context: limit of prefix plus continuation in tokens; the model's own and the memory bound limit it too.
    max_batch: most requests decoded at once; more wait, first come first served.
    cache_bytes: bound on keys and values, running and cached; None is a quarter of the memory (CPU) or four
    fifths of the free memory (GPU). Within it the cache of finished requests keeps 256 MiB, or twice what the running
    ones have needed. While the KV slots grow, one more layer is held for a moment.
    prefill_tokens: most tokens, padding included, of one prefill call; longer prefixes take several calls.
    """

    features = frozenset({"logprobs"})

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "hf",
        context: int | None = None,
        max_batch: int = 64,
        cache_bytes: int | None = None,
        prefill_tokens: int = 4096,
        template: Mapping[str, Any] | None = None,
    ) -> None:
        if max_batch < 1 or prefill_tokens < 1 or (context is not None and context < 2):
            raise BadConfig(
                f"max_batch={max_batch}, prefill_tokens={prefill_tokens}, context={context} is out of range.",
                "Use max_batch >= 1, prefill_tokens >= 1 and context >= 2.",
            )
        self.model = model.eval()
        facts = checkpoint_facts(model, context)
        if cache_bytes is None:
            cache_bytes = default_cache_bytes(model.device)
        fitting_tokens = cache_bytes // facts.bytes_per_token
        if fitting_tokens < WIDTH:
            raise BadConfig(
                f"cache_bytes={cache_bytes} holds only {fitting_tokens} tokens of this model.",
                f"Give at least {WIDTH * facts.bytes_per_token} bytes ({WIDTH} tokens).",
            )
        text = tokenizer_of(model, tokenizer, name, template)
        super().__init__(name, min(facts.context, fitting_tokens // WIDTH * WIDTH), text)
        assert text.vocabulary is not None
        self._vocabulary = text.vocabulary
        self._plan_of = lru_cache(maxsize=256)(partial(plan_stops, vocabulary=text.vocabulary))
        self._vocab_size = min(len(tokenizer), facts.logits)
        self.batch = Batch(
            model,
            facts,
            tokens=self._vocab_size,
            eos=eos_ids(model, tokenizer),
            context=self.context,
            max_batch=max_batch,
            cache_bytes=cache_bytes,
            prefill_tokens=prefill_tokens,
        )
        self._lock = threading.Lock()
        self._incoming: list[BatchRow] = []
        self._working = False
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="s1-hf")

    @property
    def counts(self) -> BatchCounts:
        """Tokens and forward calls so far."""
        return replace(self.batch.counts)

    @property
    def bytes_held(self) -> int:
        """Bytes of keys and values held now; at most `cache_bytes`."""
        return self.batch.bytes

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix`. Only `request.stops` end it early: any other EOS is an ordinary token.

        Before `min_tokens` no stop comes and the model's EOS is never drawn. Raises BadInput when the request
        cannot be served, EngineFailure when the model fails. Leaving the iteration frees the row.
        """
        if self._closed:
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        check_request(request, context=self.context, vocab_size=self._vocab_size, features=self.features)
        if request.max_tokens == 0:
            yield Chunk((), "length")
            return
        plan = self._plan_of(request.stops)
        matcher = StopMatcher(plan, self._vocabulary, min_tokens=request.min_tokens)
        decode = partial(self._decode, None if plan.by_id_alone else matcher)
        async with aclosing(suppress_early_stops(request, matcher, decode)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _decode(
        self, matcher: StopMatcher | None, request: Continuation, banned: frozenset[int]
    ) -> AsyncGenerator[Chunk, None]:
        """One row of the batch."""
        queue: asyncio.Queue[Chunk | EngineFailure] = asyncio.Queue()
        row = self.row_of(request, matcher, banned, (asyncio.get_running_loop(), queue))
        self._submit(row)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, EngineFailure):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            row.cancelled = True

    async def close(self) -> None:
        """Stop the background thread and free its memory. Requests still running fail."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        self.batch.clear()
        # With the Makefile's settings glibc would keep the freed memory for good.
        if sys.platform == "linux":
            with suppress(AttributeError):  # another libc does not have this function
                ctypes.CDLL(None).malloc_trim(0)

    def row_of(
        self,
        request: Continuation,
        matcher: StopMatcher | None = None,
        banned: frozenset[int] = frozenset(),
        handle: Any = None,
    ) -> BatchRow:
        """The request as a row for `batch`, with a random seed if it has none."""
        plan, seed = self._plan_of(request.stops), request.sampling.seed
        return BatchRow(
            request, plan, matcher, secrets.randbits(63) if seed is None else seed, handle, banned
        )

    def _submit(self, row: BatchRow) -> None:
        with self._lock:
            self._incoming.append(row)
            if not self._working:
                self._working = True
                self._executor.submit(self._work)

    def _work(self) -> None:
        """Step the batch until nothing is left: the background thread, which alone touches the batch."""
        delivered = time.monotonic()
        while True:
            with self._lock:
                arrived, self._incoming = self._incoming, []
                if not arrived and not self.batch.busy:
                    self._working = False
                    return
            try:
                for row in arrived:
                    self.batch.add(row)
                if self._closed:
                    raise EngineFailure(f"{self.name}: the engine was closed.")
                ready = self.batch.step()
            except Exception as error:  # a model can fail with any exception: report it for each request
                failure = error if isinstance(error, EngineFailure) else _failure(self.name, error)
                _send([(row, failure) for row in self.batch.clear()])
                continue
            now = time.monotonic()
            if now - delivered >= DELIVERY_SECONDS:
                delivered = now
                ready += [row for row in self.batch.rows if row.out]
            else:  # the first token at once: somebody waits for it
                ready += [row for row in self.batch.rows if row.out and row.sampled == len(row.out)]
            _send((row, _take(row)) for row in ready)


def _take(row: BatchRow) -> Chunk:
    chunk = with_logprobs(Chunk(tuple(row.out), row.finish, row.stop), row.logprobs)
    row.out.clear()
    return chunk


def _send(items: Iterable[tuple[BatchRow, Chunk | EngineFailure]]) -> None:
    """Put items into the queues of their requests, with one call for each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[BatchRow, Chunk | EngineFailure]]] = {}
    for row, item in items:
        by_loop.setdefault(row.handle[0], []).append((row, item))
    for loop, pairs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put, pairs)
        except RuntimeError:  # the loop was closed without leaving its streams
            for row, _ in pairs:
                row.cancelled = True


def _put(pairs: list[tuple[BatchRow, Chunk | EngineFailure]]) -> None:
    for row, item in pairs:
        row.handle[1].put_nowait(item)


def _failure(name: str, error: Exception) -> EngineFailure:
    hint = ""
    if isinstance(error, torch.OutOfMemoryError):
        hint = "Lower cache_bytes, max_batch or prefill_tokens."
    return EngineFailure(f"{name}: {type(error).__name__}: {first_line(error)}", hint)
