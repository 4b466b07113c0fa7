"""Budget forcing inside the caller's own transformers `generate()`: a logits processor, one `Forcing` per row.

    scores -> masks -> the row draws a token -> a stop: `Forcing` says what comes instead
                                             -> otherwise: the token passes, and `Forcing` is fed

A processor runs before a token is drawn, so it can only know the next token by drawing it: each row draws here,
with its own sampling, and `generate()` must decode greedily. Only rows that are forced, masked or sampled are
changed. docs/guides/transformers.md has the limits. Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from s1.budget import Forcing
from s1.engines.tokenizer import TokenizedEngine, eos_ids, tokenizer_of
from s1.errors import BadInput, Unsupported
from s1.formats import ThinkingFormat, choose_format
from s1.policy import BudgetPolicy
from s1.prompt import encode_prompt
from s1.types import Chunk, Continuation, Finish, Generation, Sampling, Stop

if TYPE_CHECKING:
    import torch

MINUS_INFINITY = float("-inf")

V = TypeVar("V")


def budget_processor(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    policies: BudgetPolicy | Sequence[BudgetPolicy],
    *,
    format: ThinkingFormat | str | None = None,
    sampling: Sampling | Sequence[Sampling] = Sampling(),
    context: int | None = None,
) -> BudgetProcessor:
    """A logits processor that forces `policies` on `prompts` in one call of `model.generate()`.

        processor = s1.budget_processor(model, tokenizer, [prompt], BudgetPolicy(max_thinking=500, waits=1))
        output = model.generate(**processor.inputs, **processor.options)
        generation = processor.generations()[0]

    prompts: rendered by the chat template, up to where the assistant's turn begins. policies, sampling: one
    for all rows, or one for each. With greedy decoding or equal seeds it gives the tokens of the hf engine.
    Raises Unsupported for what a processor cannot do (docs/guides/transformers.md), BadInput and BadConfig
    as `s1.think` does.
    """
    if isinstance(prompts, str) or not prompts:
        raise BadInput("No list of prompts was given.", "Give a list of rendered prompts, one for each row.")
    each_policy = _for_each(policies, len(prompts), "policies")
    each_sampling = _for_each(sampling, len(prompts), "samplings")
    loaded = LoadedModel(model, tokenizer, context)
    fmt = format if isinstance(format, ThinkingFormat) else choose_format(loaded, format)
    rows = []
    for prompt, policy, drawn in zip(prompts, each_policy, each_sampling, strict=True):
        if policy.profile == "official" and policy.waits:
            raise Unsupported(
                "The official profile removes tokens after its rounds, which generate() cannot do.",
                "Use profile strict, or s1.think.",
            )
        encoded = encode_prompt(loaded, fmt, policy, prompt)
        forced = {*encoded.close, *encoded.cue, *encoded.transition, *(i for w in encoded.waits for i in w)}
        if forced & set(loaded.eos):
            raise Unsupported(
                f"The format {fmt.name!r} forces an end-of-turn token, at which generate() ends the row.",
                "Use s1.think or an s1 engine.",
            )
        if drawn.temperature and drawn.seed is None:
            drawn = replace(drawn, seed=secrets.randbits(63))
        rows.append(Forcing(encoded, drawn))
    return BudgetProcessor(loaded, rows)


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: Any) -> dict[str, torch.Tensor]:
    """Ids and attention mask of the prompts, tensors of (B, T)."""
    from transformers import BatchEncoding

    width = max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return dict(BatchEncoding({"input_ids": ids, "attention_mask": mask}, tensor_type="pt").to(device))


def _most_tokens(forcing: Forcing) -> int:
    """Upper bound of what one row decodes: thinking, its end, the answer, and one end of turn."""
    encoded, policy = forcing.encoded, forcing.encoded.policy
    left = encoded.context - len(encoded.prompt)
    answer = left if policy.max_answer is None else policy.max_answer
    return 1 + min(left, forcing.limit + policy.grace + encoded.forced_end + answer)


def _for_each(given: V | Sequence[V], count: int, what: str) -> list[V]:
    if not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise BadInput(f"{len(given)} {what} for {count} prompts.", "Give one for all, or one for each.")
    return list(given)


class LoadedModel(TokenizedEngine):
    """What forcing must know about a loaded model and its tokenizer: an `Engine` that does not decode."""

    def __init__(self, model: Any, tokenizer: Any, context: int | None = None) -> None:
        from s1.engines.hf_checkpoint import context_of

        name = f"generate:{model.name_or_path or type(model).__name__}"
        super().__init__(name, context_of(model, context, name), tokenizer_of(model, tokenizer, name))
        self.model, self.eos = model, eos_ids(model, tokenizer)
        if not self.eos:
            raise Unsupported(f"{name} has no end-of-turn token.", "Set generation_config.eos_token_id.")
        self.pad = self.eos[0] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        """Fills short rows; it is masked, so any token will do."""
        self.vocab_size = min(len(tokenizer), model.config.get_text_config(decoder=True).vocab_size)

    async def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        raise Unsupported(
            f"{self.name} decodes in the caller's generate().", "Use the hf engine to stream from s1."
        )
        yield  # makes this an async generator

    async def close(self) -> None:
        """Nothing to release: model and tokenizer belong to the caller."""


class BudgetProcessor:
    """A logits processor for one `generate()` call. Build it with `budget_processor`.

    `inputs` are the left-padded prompts with the thinking block opened; `options` are the arguments that
    `generate()` needs. Pass both on: `generate(**inputs, **options)`.
    """

    def __init__(self, loaded: LoadedModel, rows: Sequence[Forcing]) -> None:
        self._rows = [_ForcedRow(number, forcing, loaded.eos) for number, forcing in enumerate(rows)]
        self._vocab_size = loaded.vocab_size
        self._width: int | None = None  # T of the last call
        self._emitted: list[int | None] = []  # the token that each row must have got since; None if unknown
        self.inputs = _left_padded([f.encoded.prompt for f in rows], loaded.pad, loaded.model.device)
        self.options: dict[str, Any] = {
            "logits_processor": [self],
            "max_new_tokens": max(map(_most_tokens, rows)),
            "eos_token_id": list(loaded.eos),
            "do_sample": False,
        }

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores (B, V) with forced rows reduced to one token. Changes `scores` in place.

        Raises BadInput or Unsupported when `generate()` runs in a way that would not keep the budget.
        """
        self._check(input_ids)
        if scores.shape[-1] > self._vocab_size:
            scores[:, self._vocab_size :] = MINUS_INFINITY
        rows = self._rows
        free = [n for n, row in enumerate(rows) if not row.queue and not row.done]
        emitted: list[int | None] = [row.pop_forced() if row.queue else None for row in rows]
        passing = set()  # rows whose best score already is the token that they emit
        while free:
            drawn = self._draw(scores, free)
            again = []
            for n in free:
                token = emitted[n] = rows[n].take(drawn[n])
                if token is None:
                    again.append(n)
                elif token == drawn[n] and not rows[n].sampling.temperature:
                    passing.add(n)
            free = again
        written = [n for n, token in enumerate(emitted) if token is not None and n not in passing]
        if written:
            scores[written] = MINUS_INFINITY
            scores[written, [emitted[n] for n in written]] = 0.0
        self._emitted = emitted
        return scores

    def generations(self) -> tuple[Generation, ...]:
        """The generation of each row. If `generate()` ended before the row did, its `error` says so."""
        return tuple(row.generation() for row in self._rows)

    def _draw(self, scores: torch.FloatTensor, free: Sequence[int]) -> dict[int, int]:
        """The next token of each free row, after its masks. Those with a temperature draw by seed and position."""
        from s1.engines.sampling import draw_one

        rows = self._rows
        for n in free:
            if banned := rows[n].banned():
                scores[n, banned] = MINUS_INFINITY
        best = scores.argmax(dim=-1).tolist()
        return {
            n: draw_one(scores[n : n + 1], rows[n].sampling, rows[n].length, rows[n].redraw)
            if rows[n].sampling.temperature
            else best[n]
            for n in free
        }

    def _check(self, input_ids: torch.LongTensor) -> None:
        count, width = input_ids.shape
        if count != len(self._rows):
            raise Unsupported(
                f"generate() runs {count} rows, but this processor was made for {len(self._rows)}.",
                "Pass processor.inputs; beams and num_return_sequences are not supported (repeat the prompt).",
            )
        if self._width is None:
            for n, row in enumerate(self._rows):
                if input_ids[n, -len(row.prompt) :].tolist() != list(row.prompt):
                    raise BadInput(
                        f"Row {n}: the prompt given to generate() is not the one this processor was made for.",
                        "Pass processor.inputs: left-padded, with the thinking block opened.",
                    )
        elif width != self._width + 1:
            raise Unsupported(
                f"generate() went from {self._width} to {width} tokens in one step.",
                "Make a new processor for each call; assisted decoding is not supported.",
            )
        else:
            for n, (came, emitted) in enumerate(zip(input_ids[:, -1].tolist(), self._emitted, strict=True)):
                if emitted is not None and came != emitted:
                    raise Unsupported(
                        f"Row {n}: generate() emitted token {came} instead of {emitted}.",
                        "Pass do_sample=False (give the sampling to s1.budget_processor), use no beams, and "
                        "put this processor last.",
                    )
        self._width = width


class _ForcedRow:
    """One request inside `generate()`.

    Raises Unsupported for a stop of several tokens, whose first token could not be taken back.
    """

    def __init__(self, number: int, forcing: Forcing, eos: Sequence[int]) -> None:
        self.number = number
        self.forcing, self.sampling, self.eos = forcing, forcing.sampling, tuple(eos)
        self.queue: deque[int] = deque()
        """Forced tokens still to be emitted."""
        self.done = False
        self.began: float | None = None
        self.seconds = 0.0
        self._sampled = 0  # tokens drawn for the current request
        self._request: Continuation | None
        self._stops: dict[int, Stop] = {}
        self.prompt = forcing.encoded.prompt
        self.length = len(self.prompt)
        """Tokens so far, prompt included."""
        self._next_request()
        for stop in self._request.stops if self._request else ():
            if len(stop.ids) != 1:
                raise Unsupported(
                    f"Row {number}: the delimiter {stop.text!r} is {len(stop.ids)} tokens; a processor sees "
                    "its end only after its first token is out.",
                    "Use s1.think or an s1 engine, which hold such tokens back.",
                )

    @property
    def redraw(self) -> int:
        return self._request.redraw if self._request else 0

    def banned(self) -> list[int]:
        """Ids that may not be drawn now: stops and end of turn, before the minimum of the current request."""
        if self._request is None or self._sampled >= self._request.min_tokens:
            return []
        return [*{*self._stops, *self.eos}]

    def pop_forced(self) -> int:
        """The next forced token, which is emitted now."""
        self.length += 1
        token = self.queue.popleft()
        if self._request is None and not self.queue:
            self.done = True
            self.seconds = time.perf_counter() - self.began if self.began else 0.0
        return token

    def take(self, token: int) -> int | None:
        """What is emitted when the model draws `token`; None means draw again, with the new masks."""
        assert self._request is not None
        self.began = self.began or time.perf_counter()
        stop = self._stops.get(token)
        if stop is not None:
            self.forcing.feed(Chunk((), "stop", stop))
            self._next_request()
            if not self.queue:
                return None
            if self._request is None and token in self.eos:
                self.queue[-1] = token
            return self.pop_forced()
        self.length += 1
        self._sampled += 1
        finish: Finish | None = "length" if self._sampled == self._request.max_tokens else None
        if not self.forcing.feed(Chunk((token,), finish)):
            self._next_request()
        return token

    def generation(self) -> Generation:
        error = None if self.done else "generate() ended before this row was done. Raise max_new_tokens."
        return self.forcing.result(question_id=str(self.number), seconds=self.seconds, error=error)

    def _next_request(self) -> None:
        """Queue the tokens that are forced before the next request; an end of turn closes the row."""
        self._request, self._sampled = self.forcing.ask(), 0
        forced = [i for _, _, ids in self.forcing.spans for i in ids][self.length :]
        if self._request is None:  # generate() has one length for all rows, so each row ends by its own token
            forced += self.eos[:1]
        else:
            self._stops = {stop.ids[0]: stop for stop in reversed(self._request.stops)}
        self.queue = deque(forced)
