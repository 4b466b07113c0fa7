"""The values that all parts of the project share, and the protocol that engines follow.

All values are frozen dataclasses, so equal content compares equal. Tokens are ids inside the project and text
outside it, so each `Segment` has both. The JSON codec at the end is the only one in the project.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import types as _types
import typing
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from s1.errors import BadInput, EngineFailure

Phase = Literal["prompt", "thinking", "delimiter", "answer"]
Owner = Literal["model", "forced", "format"]
Finish = Literal["stop", "length"]
CutBy = Literal["limit", "loop", "answer_now"]
Outcome = Literal["right", "wrong", "cut", "no answer", "error"]


def question_id(text: str, source: str = "") -> str:
    """First 16 hex digits of SHA-256 over the source and the text in lower case with whitespace collapsed."""
    normalised = " ".join(text.lower().split())
    return hashlib.sha256(f"{source}\n{normalised}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its reference answer (None when the source has none)."""

    id: str
    text: str
    """The whole user message (section 3.1), with the choices where it has any."""
    answer: str | None = None
    source: str = ""
    choices: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """A training example: thinking and answer for one question, without prompt markup."""

    question: Question
    thinking: str
    answer: str
    by: str = ""
    untrained: tuple[tuple[int, int], ...] = ()
    """Parts of the thinking that are shown but not learnt: [start, end) in characters."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens with the same phase and owner.

    "model": drawn by the model. "forced": appended by the forcing, which are waits, the transition, the cue, and the
    delimiter where the model did not end its thinking itself. "format": the prompt, and what the format adds to a
    delimiter that the model wrote.
    """

    token_ids: tuple[int, ...]
    text: str
    phase: Phase
    by: Owner


def texts_of(parts: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """The text of each part. Joined they are the text of the whole: a character that spans two parts belongs
    to the part that completes it, and one that is never completed to the part where it begins."""
    texts, done, before = list[str](), "", list[int]()
    torn = 0  # replacement characters at the end of the last part, which this one may complete
    for number, part in enumerate(parts, 1):
        before.extend(part)
        whole = decode(before)
        stable = whole if number == len(parts) else whole.rstrip("\ufffd")
        while torn and len(stable) > len(done) and stable[len(done)] == "\ufffd":
            texts[-1] += "\ufffd"
            done, torn = stable[: len(done) + 1], torn - 1
        texts.append(stable[len(done) :])
        done = stable if len(stable) > len(done) else done
        torn = len(whole) - len(done)
    return texts


@dataclass(frozen=True, slots=True)
class Spent:
    """Tokens spent on one answer by a method that needs more than the generation of that answer."""

    thinking: int
    """Thinking tokens of every rollout, discarded ones included."""
    answer: int
    reward: int = 0
    """Tokens that a reward model read."""
    rollouts: int = 1
    """How many rollouts were started."""
    failed: int = 0
    """How many of them failed; the answer comes from the others."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One of the rollouts that a vote or a search chose from, as text: enough to read it and to extract its answer."""

    segments: tuple[Segment, ...]
    """After the prompt, without token ids."""
    thinking_tokens: int
    answer_tokens: int
    finish: Finish | None
    chosen: bool
    """Whether its answer is that of the method."""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """All tokens of one request with their owners and counts, without a grade."""

    question_id: str
    sample: int
    policy: str
    segments: tuple[Segment, ...]
    thinking_tokens: int
    """Tokens between the delimiters, forced ones included, delimiters excluded (section 3.1)."""
    answer_tokens: int
    forced_tokens: int
    """Tokens that the forcing appended: waits, transition, cue, and the delimiter after a cut."""
    waits: int
    """How many waits were appended."""
    cut: bool
    """True when the thinking was ended for the model; `cut_by` says by what."""
    finish: Finish | None
    """How the answer ended; None only with an error."""
    grace_used: int = 0
    """Thinking tokens after the limit, used to finish a sentence."""
    exact: bool = True
    """False when the engine reported no token ids, so that the counts are estimates."""
    seconds: float = 0.0
    first_token_seconds: float | None = None
    """Until the model's first token. Both times are measurements: results are compared without them."""
    seed: int | None = None
    error: str | None = None
    cut_by: CutBy | None = None
    """The limit, the loop guard, or a client that wanted the answer now."""
    spent: Spent | None = None
    """What the method spent on this answer; None when it is only this generation's own tokens."""
    rollouts: tuple[Rollout, ...] = ()
    """What a method of several rollouts chose from; empty where there was one."""

    def text_of(self, phase: Phase) -> str:
        """The text of one phase, with its forced tokens."""
        return "".join(s.text for s in self.segments if s.phase == phase)

    @property
    def thinking(self) -> str:
        """The thinking as text, forced waits included, delimiters left out."""
        return self.text_of("thinking").strip()

    @property
    def answer(self) -> str:
        """What the model wrote after the delimiter and the cue."""
        return self.text_of("answer").strip()


@dataclass(frozen=True, slots=True)
class Grade:
    """The grade of one generation."""

    outcome: Outcome
    extracted: str | None
    how: str
    """Which rule decided, e.g. "integer", "symbolic", "letter"."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Temperature 0 is greedy; a seed makes a sample repeatable."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise BadInput(
                f"Sampling out of range: {self}.", "Use temperature >= 0, 0 < top_p <= 1, top_k >= 0."
            )


@dataclass(frozen=True, slots=True)
class Stop:
    """A string that ends a continuation, with its token ids."""

    text: str
    ids: tuple[int, ...]

    @property
    def most_tokens(self) -> int:
        """Most tokens that can spell it: a long one may come as other tokens than its ids, down to bytes."""
        return 1 if len(self.ids) == 1 else len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Continuation:
    """A request to continue `prefix` by at most `max_tokens`, up to the first of `stops` after `min_tokens`."""

    prefix: tuple[int, ...]
    max_tokens: int
    stops: tuple[Stop, ...] = ()
    min_tokens: int = 0
    sampling: Sampling = Sampling()
    redraw: int = 0
    """How often the sample has had to draw again where an end was drawn before: such a draw needs new numbers."""
    json_schema: str | None = None
    """The JSON schema, as text, that the tokens must follow from the first to the last."""
    logprobs: int | None = None
    """How many of the likeliest tokens are reported at each place, besides the drawn one; None: no report."""

    def after(self, ids: Sequence[int]) -> Continuation:
        """What is left of this request when `ids` have been decoded. Raises EngineFailure where it cannot be split."""
        if ids and self.json_schema is not None:
            raise EngineFailure(
                "The stream broke within a JSON answer, which no engine can continue from the middle."
            )
        return replace(
            self,
            prefix=self.prefix + tuple(ids),
            max_tokens=self.max_tokens - len(ids),
            min_tokens=max(0, self.min_tokens - len(ids)),
        )


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of a drawn token under the model: natural logarithm, before temperature and filters."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens there with theirs, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a continuation. `ids` never contain the stop; only the last chunk has `finish`."""

    ids: tuple[int, ...]
    finish: Finish | None = None
    stop: Stop | None = None
    """Which stop ended it, when `finish` is "stop"."""
    exact: bool = True
    logprobs: tuple[TokenLogprob, ...] = ()
    """Where the request asked for them, one for each of `ids` that the model drew; before a stop that begins within a
    token, the ids that spell the part before it have none."""


class Engine(Protocol):
    """Continues prefixes, and nothing else: forcing is in `budget`."""

    name: str
    context: int
    """Longest prefix plus continuation, in tokens."""
    eos_texts: tuple[str, ...]
    """The end-of-turn tokens as text."""
    template: str | None
    """The chat template, from which the thinking format is detected."""
    folder: Path | None
    """The checkpoint folder, if there is one."""
    features: frozenset[str]
    """Which optional fields of a `Continuation` it follows: "json_schema", "logprobs". It refuses the others."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`, special tokens recognised, none added."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens shown."""
        ...

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """The chat template applied to messages and tools, up to where the assistant's turn begins."""
        ...

    def stream(self, request: Continuation) -> AsyncGenerator[Chunk, None]:
        """Continue `request.prefix`. Closing the generator cancels the rest.

        Raises `Unsupported` before decoding when the engine does not support the request.
        """
        ...

    async def close(self) -> None: ...


T = TypeVar("T")


def to_json(value: Any) -> Any:
    """Plain JSON types of a dataclass, mapping or sequence."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(v) for v in value]
    return value


def from_json(kind: type[T], data: Any) -> T:
    """The inverse of `to_json`. Raises BadInput naming the field that is missing, unknown or mistyped."""
    return typing.cast(T, _read(kind, data, kind.__name__))


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return data
    if origin is Literal:
        if data in args:
            return data
    elif origin in (typing.Union, _types.UnionType):
        if data is None and type(None) in args:
            return None
        for option in args:
            if option is not type(None):
                try:
                    return _read(option, data, where)
                except BadInput:
                    continue
    elif origin is tuple and isinstance(data, (list, tuple)):
        if args == (int, ...) and set(map(type, data)) <= {int}:  # token ids: most of a generation
            return tuple(data)
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_read(args[0], v, f"{where}[{i}]") for i, v in enumerate(data))
        if len(args) == len(data):
            return tuple(
                _read(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, data, strict=True))
            )
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        if isinstance(data, Mapping):
            return dict(data)
    elif dataclasses.is_dataclass(kind):
        return _read_dataclass(typing.cast(type, kind), data, where)
    elif kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    elif isinstance(kind, type) and isinstance(data, kind) and not (kind is int and isinstance(data, bool)):
        return data
    name = re.sub(r"[\w.]+\.(\w+)", r"\1", str(getattr(kind, "__name__", kind)))
    wanted = f"one of {', '.join(map(repr, args))}" if origin is Literal else name
    raise BadInput(f"{where}: expected {wanted}, found {data!r:.60}.")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _read_dataclass(kind: type, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise BadInput(f"{where}: expected an object, found {data!r:.60}.")
    hints = _hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise BadInput(f"{where}: unknown field {unknown[0]!r}.")
    values = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _read(hints[name], data[name], f"{where}.{name}")
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise BadInput(f"{where}: the field {name!r} is missing.")
    return kind(**values)
