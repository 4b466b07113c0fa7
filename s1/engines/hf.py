"""The Hugging Face engine: a causal language model in this process, on CPU or GPU.

Requests of any number of coroutines run in one batch (`batch.py`), stepped by one background thread. Models
whose cache is the ordinary one (every layer attends to everything before) are served; others are refused.
Determinism: on the CPU the default is float32. Greedy results do not depend on what else is in the batch
except where two logits are closer than the rounding of a matrix product, whose order of sums may change with
the batch size.
"""

from __future__ import annotations

import asyncio
import ctypes
import secrets
import sys
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from s1.engines.hf_batch import Batch
from s1.engines.hf_checkpoint import (
    check_folder,
    decoder_of,
    default_cache_bytes,
    eos_of,
    examine,
)
from s1.engines.hf_kv_cache import WIDTH
from s1.engines.hf_row import Row
from s1.engines.stops import StopMatcher, StopPlan, plan_stops, vocabulary_of
from s1.engines.tokenizer import apply_template
from s1.errors import BadConfig, BadInput, EngineFailure, Unsupported, first_line
from s1.types import Chunk, Continuation, Stop

DELIVERY_SECONDS = 0.05
"""Ids of running requests are handed over at most this often: waking a coroutine per token is dear."""
PATIENCE_SECONDS = 0.002
"""Longest wait for what callers ask next, after a step in which requests ended and before the first step."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
) -> HFEngine:
    """The engine for a model folder or Hub id. Weights must be safetensors; code from the Hub is never run.

    device: "auto" takes a GPU where there is one. dtype: "auto" is float32 on the CPU and the checkpoint's
    own on a GPU.
    threads: torch's CPU threads, left alone when None. The rest: see `HFEngine`.
    Raises BadInput when there is no such model or tokenizer, Unsupported when its cache is not an ordinary
    one.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype != "auto" and dtype not in DTYPES:
        raise BadConfig(f"Unknown dtype {dtype!r}.", f"Choose auto, {', '.join(DTYPES)}.")
    check_folder(path)
    chosen: Any = DTYPES.get(dtype, torch.float32 if device == "cpu" else "auto")
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path}: no model configuration that transformers can read ({first_line(error)}).",
            "Give a folder with config.json, tokenizer and safetensors weights, or a Hub id (org/name).",
        ) from error
    if config.is_encoder_decoder:
        raise Unsupported(f"{path}: an encoder-decoder model.", "Use a causal language model.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path}: the tokenizer cannot be loaded ({first_line(error)}).",
            "Save it beside the weights: tokenizer.save_pretrained(folder).",
        ) from error
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=chosen, use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{path}: the weights cannot be loaded ({first_line(error)}).",
            "They must be safetensors of a causal language model: model.save_pretrained(folder).",
        ) from error
    return HFEngine(
        model.to(device),
        tokenizer,
        name=f"hf:{path}",
        context=context,
        max_batch=max_batch,
        cache_bytes=cache_bytes,
        prefill_tokens=prefill_tokens,
    )


class HFEngine:
    """Engine over a loaded transformers model. Close it when done; it may be used from several event loops.

    context: cap on prefix plus continuation; the model's own and the memory bound cap it too.
    max_batch: most requests decoded at once; more wait, first come first served.
    cache_bytes: bound on keys and values, running and kept; None takes a quarter of the memory (CPU) or four
    fifths of what is free (GPU). While the board grows, one more layer is held for a moment.
    prefill_tokens: most tokens, padding included, of one prefill call; longer prefixes are computed in
    pieces.
    """

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
    ) -> None:
        if max_batch < 1 or prefill_tokens < 1 or (context is not None and context < 2):
            raise BadConfig(
                f"max_batch={max_batch}, prefill_tokens={prefill_tokens}, context={context} cannot be used.",
                "Use max_batch >= 1, prefill_tokens >= 1 and context >= 2.",
            )
        self.name, self.model, self.tokenizer = name, model.eval(), tokenizer
        facts = examine(model, context)
        if cache_bytes is None:
            cache_bytes = default_cache_bytes(model.device)
        fitting_tokens = cache_bytes // facts.bytes_per_token
        fitting = fitting_tokens // WIDTH * WIDTH
        if fitting < WIDTH:
            raise BadConfig(
                f"cache_bytes={cache_bytes} holds only {fitting_tokens} tokens of this model.",
                f"Give at least {WIDTH * facts.bytes_per_token} bytes ({WIDTH} tokens).",
            )
        self.context: int = min(facts.context, fitting)
        self.eos_texts = tuple(tokenizer.convert_ids_to_tokens(list(eos_of(model, tokenizer))))
        self.template: str | None = tokenizer.chat_template
        came_from = model.name_or_path
        self.folder: Path | None = Path(came_from) if came_from and Path(came_from).is_dir() else None
        self._decode = decoder_of(tokenizer)
        self._vocabulary = vocabulary_of(tokenizer)
        self._tokens = min(len(tokenizer), facts.logits)
        self.batch = Batch(
            model,
            shapes=facts.shapes,
            cache_argument=facts.cache_argument,
            tokens=self._tokens,
            eos=eos_of(model, tokenizer),
            context=self.context,
            max_batch=max_batch,
            cache_bytes=cache_bytes,
            prefill_tokens=prefill_tokens,
        )
        self._plans: dict[tuple[Stop, ...], StopPlan] = {}
        self._lock = threading.Lock()
        self._incoming: list[Row] = []
        self._working = False
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="s1-hf")

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens recognised, none added."""
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens shown."""
        text: str = self._decode(list(ids))
        return text

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The chat template applied, up to where the assistant begins. BadInput where there is none."""
        if not self.tokenizer.chat_template:
            raise BadInput(
                f"{self.name}: the tokenizer has no chat template.",
                "Set tokenizer.chat_template and save the tokenizer, or give the prompt as text.",
            )
        return apply_template(self.tokenizer, messages, self.name)

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `ask.prefix`. Only `ask.stops` end it early: an EOS not among them is an ordinary token.

        Before `min_tokens`, stops that are a single token and the model's EOS are never drawn; a stop of
        several tokens that begins earlier is ordinary output. Raises BadInput when the ask cannot be served,
        EngineFailure when the model fails. Leaving the iteration frees the row.
        """
        self._check(ask)
        if ask.max_tokens == 0:
            yield Chunk((), "length")
            return
        queue: asyncio.Queue[Chunk | EngineFailure] = asyncio.Queue()
        row = self._row(ask, (asyncio.get_running_loop(), queue))
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
        """Stop the background thread and give its memory back; requests still running fail."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        self.batch.clear()
        # A glibc that was told to keep freed memory (Makefile) would keep it from one engine to the next.
        if sys.platform == "linux":
            with suppress(AttributeError):  # another libc has no such function
                ctypes.CDLL(None).malloc_trim(0)

    def _check(self, ask: Continuation) -> None:
        if self._closed:
            raise EngineFailure(f"{self.name}: the engine is closed.", "Load it again.")
        if not ask.prefix:
            raise BadInput("The prefix is empty.", "Give at least one token.")
        if min(ask.prefix) < 0 or max(ask.prefix) >= self._tokens:
            wrong = next(i for i in ask.prefix if not 0 <= i < self._tokens)
            raise BadInput(f"Token id {wrong} of the prefix is not in the vocabulary of {self._tokens}.")
        if ask.max_tokens < 0 or not 0 <= ask.min_tokens <= ask.max_tokens:
            raise BadInput(
                f"max_tokens {ask.max_tokens} and min_tokens {ask.min_tokens} contradict each other.",
                "Use 0 <= min_tokens <= max_tokens.",
            )
        if len(ask.prefix) + ask.max_tokens > self.context:
            raise BadInput(
                f"A prefix of {len(ask.prefix)} tokens and {ask.max_tokens} more exceed "
                f"the context of {self.context}.",
                f"Ask for at most {max(0, self.context - len(ask.prefix))} tokens or shorten the prefix.",
            )

    def _row(self, ask: Continuation, handle: Any) -> Row:
        plan = self._plans.get(ask.stops)
        if plan is None:
            wrong = [i for stop in ask.stops for i in stop.ids if not 0 <= i < self._tokens]
            if wrong:
                raise BadInput(f"Token id {wrong[0]} of a stop is not in the vocabulary of {self._tokens}.")
            if len(self._plans) >= 256:
                self._plans.clear()
            plan = self._plans[ask.stops] = plan_stops(ask.stops, self._vocabulary)
        matcher = None
        if not plan.by_id_alone:
            matcher = StopMatcher(plan, self._vocabulary, min_tokens=ask.min_tokens)
        seed = ask.sampling.seed
        return Row(ask, plan, matcher, secrets.randbits(63) if seed is None else seed, handle)

    def _submit(self, row: Row) -> None:
        with self._lock:
            self._incoming.append(row)
            if not self._working:
                self._working = True
                self._executor.submit(self._work)

    def _work(self) -> None:
        """Step the batch until nothing is left: the background thread, which alone touches the batch."""
        delivered = time.monotonic()
        with self._lock:
            loops = [row.handle[0] for row in self._incoming]
        _reach({loop: [] for loop in loops}, PATIENCE_SECONDS)  # more requests may be on their way
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
                ended = self.batch.step()
            except (
                Exception
            ) as error:  # the model's own failures are of any kind: report them on each request
                failure = error if isinstance(error, EngineFailure) else _failure(self.name, error)
                _send([(row, failure) for row in self.batch.clear()])
                continue
            now = time.monotonic()
            if now - delivered >= DELIVERY_SECONDS:
                delivered = now
                _send([(row, _take(row)) for row in self.batch.rows if row.out and not row.finish])
            if ended:
                _send([(row, _take(row)) for row in ended if row.finish], PATIENCE_SECONDS)


def _take(row: Row) -> Chunk:
    chunk = Chunk(tuple(row.out), row.finish, row.stop)
    row.out.clear()
    return chunk


def _send(items: list[tuple[Row, Chunk | EngineFailure]], patience: float = 0.0) -> None:
    """Hand items to their event loops, one call for each loop.

    With `patience` (seconds), callers have that long to ask for what they want next: a request that goes on
    from one that has just ended can then take its place. A loop that is busy otherwise is not waited for.
    """
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Any], Chunk | EngineFailure]]] = {}
    for row, item in items:
        loop, queue = row.handle
        by_loop.setdefault(loop, []).append((queue, item))
    gone = _reach(by_loop, patience)
    for row, _ in items:
        if row.handle[0] in gone:
            row.cancelled = True


def _reach(
    by_loop: Mapping[asyncio.AbstractEventLoop, list[tuple[asyncio.Queue[Any], Any]]], patience: float
) -> set[asyncio.AbstractEventLoop]:
    """The work of `_send`. Returns the loops that were closed without leaving their streams."""
    gone, turns = set(), []
    deadline = time.monotonic() + patience
    for loop, pairs in by_loop.items():
        turn = threading.Lock()
        turn.acquire()
        try:
            loop.call_soon_threadsafe(_put, pairs, loop, turn)
        except RuntimeError:
            gone.add(loop)
        else:
            turns.append(turn)
    if patience:
        for turn in turns:
            turn.acquire(timeout=max(0.0, deadline - time.monotonic()))
    return gone


def _put(
    pairs: list[tuple[asyncio.Queue[Any], Any]], loop: asyncio.AbstractEventLoop, turn: threading.Lock
) -> None:
    for queue, item in pairs:
        queue.put_nowait(item)
    loop.call_soon(turn.release)  # after the callers that this woke, who ask on at once if they do as `drive`


def _failure(name: str, error: Exception) -> EngineFailure:
    hint = ""
    if isinstance(error, torch.OutOfMemoryError):
        hint = "Lower cache_bytes, max_batch or prefill_tokens."
    return EngineFailure(f"{name}: {type(error).__name__}: {first_line(error)}", hint)
