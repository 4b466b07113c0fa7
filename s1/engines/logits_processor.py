"""Budget forcing inside the caller's own `generate()`: a logits processor that walks one machine per row.

    scores -> masks -> the row's own draw -> stop? -> the machine says what comes instead
                                          -> else  -> the token passes, the machine is told

A processor runs before a token is drawn, so "about to be emitted" is known only to who draws: each row draws
here, with its own sampling, and `generate()` must run greedily over what is left. Only rows that are forced,
masked or sampled are written to. Build it with `s1.budget_processor`; docs/guides/transformers.md has the
limits. Shapes: B rows, T positions, V vocabulary.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from s1.errors import BadInput, Unsupported
from s1.types import Chunk, Continuation, Finish, Generation, Owner, Phase, Sampling, Stop

if TYPE_CHECKING:
    import torch

MINUS_INFINITY = float("-inf")


class Machine(Protocol):
    """The part of `s1.budget.Forcing` that a row needs: engines and machine know each other by this only."""

    @property
    def spans(self) -> Sequence[tuple[Phase, Owner, Sequence[int]]]: ...
    def ask(self) -> Continuation | None: ...
    def feed(self, chunk: Chunk) -> bool: ...
    def result(
        self, *, question_id: str = "", seconds: float = 0.0, error: str | None = None
    ) -> Generation: ...


class LoadedModel:
    """What forcing has to know of a loaded model and its tokenizer: an `Engine` that decodes nothing."""

    def __init__(self, model: Any, tokenizer: Any, context: int | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name = f"generate:{model.name_or_path or type(model).__name__}"
        config = model.config.get_text_config(decoder=True)
        own = getattr(config, "max_position_embeddings", None)
        if own is None and context is None:
            raise Unsupported(f"{self.name} states no max_position_embeddings.", "Pass the option context.")
        self.context: int = min(n for n in (own, context) if n is not None)
        eos = model.generation_config.eos_token_id
        eos = tokenizer.eos_token_id if eos is None else eos
        self.eos: tuple[int, ...] = () if eos is None else tuple(eos) if isinstance(eos, list) else (eos,)
        if not self.eos:
            raise Unsupported(f"{self.name} has no end-of-turn token.", "Set generation_config.eos_token_id.")
        self.eos_texts: tuple[str, ...] = tuple(tokenizer.convert_ids_to_tokens(list(self.eos)))
        self.tokens: int = min(len(tokenizer), config.vocab_size)
        self.template: str | None = tokenizer.chat_template
        came_from = model.name_or_path
        self.folder: Path | None = Path(came_from) if came_from and Path(came_from).is_dir() else None

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [dict(m) for m in messages], add_generation_prompt=True, tokenize=False
        )
        return text

    async def stream(self, ask: Continuation) -> AsyncGenerator[Chunk, None]:
        raise Unsupported(
            f"{self.name} decodes in the caller's generate().", "Use the hf engine to stream from s1."
        )
        yield  # makes this an async generator

    async def close(self) -> None:
        """Nothing to release: model and tokenizer belong to the caller."""


class BudgetProcessor:
    """A logits processor for one `generate()` call: give it as `logits_processor=[processor]`.

    `inputs` are the left-padded prompts as `generate()` takes them, with the thinking block opened;
    `options` the arguments that it needs. Both are there to be passed on: `generate(**inputs, **options)`.
    """

    def __init__(
        self,
        machines: Sequence[Machine],
        samplings: Sequence[Sampling],
        *,
        eos: Sequence[int],
        tokens: int,
        inputs: Mapping[str, Any],
        max_new_tokens: int,
    ) -> None:
        """tokens: size of the tokenizer; ids from there on are padding of the logits and never drawn."""
        self._rows = [_Row(m, s, eos) for m, s in zip(machines, samplings, strict=True)]
        for number, row in enumerate(self._rows):
            row.check(number)
        self._eos, self._tokens = tuple(eos), tokens
        self._width: int | None = None  # T of the last call
        self._emitted: list[int | None] = []  # what each row must have got since; None: nothing is known
        self.inputs = inputs
        self.options: dict[str, Any] = {
            "logits_processor": [self],
            "max_new_tokens": max_new_tokens,
            "eos_token_id": list(eos),
            "do_sample": False,
        }

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores (B, V) with forced rows reduced to one token. Changes `scores` in place.

        Raises BadInput or Unsupported when `generate()` runs in a way that would not bind the budget.
        """
        self._check(input_ids)
        if scores.shape[-1] > self._tokens:
            scores[:, self._tokens :] = MINUS_INFINITY
        rows = self._rows
        free = [n for n, row in enumerate(rows) if not row.queue and not row.over]
        emitted: list[int | None] = [row.queue.popleft() if row.queue else None for row in rows]
        for n, row in enumerate(rows):
            if emitted[n] is not None:
                row.passed()
        passing = set()  # rows whose best score is already what they emit
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

    def receipts(self) -> tuple[Generation, ...]:
        """The receipt of each row. A row that `generate()` left before its end says so in `error`."""
        return tuple(row.receipt(n) for n, row in enumerate(self._rows))

    def _draw(self, scores: torch.FloatTensor, free: Sequence[int]) -> dict[int, int]:
        """The next token of each free row, after its masks. Rows with a temperature draw by seed and position."""
        rows = self._rows
        for n in free:
            if banned := rows[n].banned():
                scores[n, banned] = MINUS_INFINITY
        best = scores.argmax(dim=-1).tolist()
        return {
            n: _drawn(scores[n : n + 1], rows[n]) if rows[n].sampling.temperature else best[n] for n in free
        }

    def _check(self, input_ids: torch.LongTensor) -> None:
        count, width = input_ids.shape
        if count != len(self._rows):
            raise Unsupported(
                f"generate() runs {count} rows, this processor was made for {len(self._rows)}.",
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
                        f"Row {n}: generate() emitted token {came} where the budget says {emitted}.",
                        "Pass do_sample=False (sampling goes to s1.budget_processor), no beams, and this "
                        "processor last.",
                    )
        self._width = width


class _Row:
    """One machine on its way through `generate()`."""

    def __init__(self, machine: Machine, sampling: Sampling, eos: Sequence[int]) -> None:
        self.machine, self.sampling, self.eos = machine, sampling, tuple(eos)
        self.queue: deque[int] = deque()
        """Forced tokens still to be emitted."""
        self.over = False
        self.began: float | None = None
        self.seconds = 0.0
        self._sampled = 0  # tokens of the present ask
        self._ask: Continuation | None = None
        self._stops: dict[int, Stop] = {}
        self.prompt = tuple(machine.spans[0][2])
        self.length = len(self.prompt)
        """Tokens so far, prompt included."""
        self._renew()

    def check(self, number: int) -> None:
        """Raise Unsupported for a stop that cannot be taken back once its first token is out."""
        for stop in self._ask.stops if self._ask else ():
            if len(stop.ids) != 1:
                raise Unsupported(
                    f"Row {number}: the delimiter {stop.text!r} is {len(stop.ids)} tokens; a processor sees "
                    "its end only when its beginning is out.",
                    "Use s1.think or an s1 engine, which hold such tokens back.",
                )

    def banned(self) -> list[int]:
        """Ids that may not be drawn now: the stops, before the minimum of the present ask."""
        if self._ask is None or self._sampled >= self._ask.min_tokens:
            return []
        return [*{*self._stops, *self.eos}]

    def passed(self) -> None:
        """Note that a forced token went out."""
        self.length += 1
        if self._ask is None and not self.queue:
            self._finish()

    def take(self, token: int) -> int | None:
        """What is emitted where the model draws `token`; None: draw again, with the new masks."""
        assert self._ask is not None
        self.began = self.began or time.perf_counter()
        stop = self._stops.get(token)
        if stop is not None:
            self.machine.feed(Chunk((), "stop", stop))
            self._renew()
            if not self.queue:
                return None
            if self._ask is None and token in self.eos:
                self.queue[-1] = token
            forced = self.queue.popleft()
            self.passed()
            return forced
        self.length += 1
        self._sampled += 1
        finish: Finish | None = "length" if self._sampled == self._ask.max_tokens else None
        if not self.machine.feed(Chunk((token,), finish)):
            self._renew()
        return token

    def receipt(self, number: int) -> Generation:
        error = None
        if not self.over:
            error = "generate() ended before this row was done. Raise max_new_tokens."
        return self.machine.result(question_id=str(number), seconds=self.seconds, error=error)

    def _renew(self) -> None:
        """Ask the machine for what comes next: what it has forced is queued, an end of turn closes the row."""
        self._ask, self._sampled = self.machine.ask(), 0
        forced = [i for _, _, ids in self.machine.spans for i in ids][self.length :]
        if self._ask is None:  # generate() has one length for all rows, so each row ends by its own token
            forced += self.eos[:1]
        else:
            self._stops = {stop.ids[0]: stop for stop in reversed(self._ask.stops)}
        self.queue = deque(forced)

    def _finish(self) -> None:
        self.over = True
        self.seconds = time.perf_counter() - self.began if self.began else 0.0


def _drawn(scores_1V: torch.Tensor, row: _Row) -> int:
    """A draw of the hf engine: a function of seed and position, so that both give the same tokens."""
    from s1.engines.sampling import draw, draw_filtered, uniform

    sampling = row.sampling
    double = scores_1V[:, :0].double()
    temperature_1 = double.new_tensor([sampling.temperature])
    uniform_1 = double.new_tensor([uniform(sampling.seed or 0, row.length)])
    if sampling.top_p >= 1 and sampling.top_k == 0:
        return int(draw(scores_1V, temperature_B=temperature_1, uniform_B=uniform_1))
    return int(
        draw_filtered(
            scores_1V,
            temperature_B=temperature_1,
            top_k_B=double.new_tensor([sampling.top_k]).long(),
            top_p_B=double.new_tensor([sampling.top_p]),
            uniform_B=uniform_1,
        )
    )
