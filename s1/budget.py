"""Budget forcing (section 3.1): a pure state machine, and the loop that joins it to an engine.

    thinking --stop, waits left or below the minimum--> append wait, thinking
    thinking --stop----------------------------------> append close, answer
    thinking --limit reached-------------------------> (grace) append close and cue, answer
    answer   --stop or length------------------------> done

The machine knows no engine, tokenizer or network: `ask()` says what it wants next, `feed()` tells it
what came. Every token has an owner, and the thinking budget is what remains, recomputed at each ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import chain
from typing import Literal

from s1.errors import BadConfig, BadInput, EngineFailure
from s1.formats import ThinkingFormat, as_stops, open_prompt
from s1.types import Ask, Chunk, Engine, Finish, Generation, Owner, Phase, Sampling, Segment, Stop

SENTENCE_ENDS = (".", "!", "?", "\n", "。")


@dataclass(frozen=True, slots=True)
class BudgetPolicy:
    """How long one request may and must think. Tokens; forced tokens count as thinking."""

    max_thinking: int | None = None
    """Thinking ends here. None, which "auto" becomes: what the context leaves for this request alone."""
    min_thinking: int = 0
    """An end before this many tokens is suppressed: `wait` is appended, or masked if `wait` is empty."""
    waits: int = 0
    """How often the end of thinking is suppressed and `wait` appended."""
    wait: tuple[str, ...] = ("Wait",)
    """Appended at a suppressed end, in turn; ("",) suppresses without adding text."""
    max_answer: int | None = None
    """Limit of the answer phase. None: what the context leaves."""
    cue: Literal["cut", "always", "never"] = "cut"
    """When the format's final cue follows the end delimiter."""
    transition: str = ""
    """Said at the end of a cut thinking, inside its budget."""
    grace: int = 0
    """After the limit, up to this many more tokens to end at a sentence or line."""
    on_eos_in_thinking: Literal["delimiter", "answer"] = "delimiter"
    """An end of turn inside the thinking counts as its delimiter, which waits and a minimum suppress (as in
    the authors' code), or goes to the answer at once."""
    profile: Literal["strict", "official"] = "strict"
    """`official`: token for token what the paper's code does (docs/paper_map.md)."""

    def __post_init__(self) -> None:
        if str(self.max_thinking) == "auto":  # the name that the authors' command line has for it
            object.__setattr__(self, "max_thinking", None)
        for name in ("max_thinking", "min_thinking", "waits", "max_answer", "grace"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                raise BadConfig(f"{name} is {value!r}.", "Use a whole number of tokens.")
            if value is not None and value < 0:
                raise BadConfig(f"{name} is {value}.", "Use 0 or more tokens.")
        if self.max_thinking is not None and self.min_thinking > self.max_thinking:
            raise BadConfig(
                f"min_thinking {self.min_thinking} is above max_thinking {self.max_thinking}.",
                "Lower the one.",
            )
        if isinstance(self.wait, str) or not self.wait:
            raise BadConfig(
                f"wait is {self.wait!r}.",
                'Give a tuple of strings such as ("Wait",); ("",) suppresses the end without adding text.',
            )
        for name, choices in (
            ("cue", ("cut", "always", "never")),
            ("on_eos_in_thinking", ("delimiter", "answer")),
            ("profile", ("strict", "official")),
        ):
            if getattr(self, name) not in choices:
                raise BadConfig(
                    f"{name} is {getattr(self, name)!r}.", f"Choose one of: {', '.join(choices)}."
                )
        if self.profile == "official" and (
            self.min_thinking
            or self.grace
            or self.transition
            or self.cue != "cut"
            or self.on_eos_in_thinking != "delimiter"
        ):
            raise BadConfig(
                "The official profile has no min_thinking, grace, transition, other cue or end of turn.",
                "Use profile strict.",
            )

    @property
    def label(self) -> str:
        """A short name for tables and plots, unique among policies that force differently."""
        parts = []
        if self.max_thinking is not None:
            parts.append(f"max {self.max_thinking}")
        if self.min_thinking:
            parts.append(f"min {self.min_thinking}")
        if self.waits:
            parts.append(f"wait {self.waits}")
        if (self.waits or self.min_thinking) and self.wait != ("Wait",):
            parts.append("with " + "/".join(map(repr, self.wait)))
        if self.cue != "cut":
            parts.append(f"cue {self.cue}")
        if self.transition:
            parts.append(f"transition {self.transition!r}")
        if self.grace:
            parts.append(f"grace {self.grace}")
        if self.on_eos_in_thinking != "delimiter":
            parts.append(f"end of turn: {self.on_eos_in_thinking}")
        if self.profile != "strict":
            parts.append(self.profile)
        return ", ".join(parts) or "natural"


@dataclass(frozen=True, slots=True)
class Script:
    """A policy and a format in token ids: all that the machine needs to know of a tokenizer."""

    policy: BudgetPolicy
    prompt: tuple[int, ...]
    """The prompt with the thinking block opened."""
    close: tuple[int, ...]
    cue: tuple[int, ...]
    newline: tuple[int, ...]
    """Put before `close` when the thinking does not end in a newline; empty where the format needs none."""
    waits: tuple[tuple[int, ...], ...]
    transition: tuple[int, ...]
    stops: tuple[Stop, ...]
    """What ends thinking: the delimiters and the end of turn."""
    answer_stops: tuple[Stop, ...]
    context: int
    decode: Callable[[Sequence[int]], str]


def make_script(engine: Engine, fmt: ThinkingFormat, policy: BudgetPolicy, prompt: str) -> Script:
    """Encode a rendered prompt, the format and the policy for one engine. Raises BadInput, BadConfig."""
    official = policy.profile == "official"
    # The official code lets the model write the newlines around the delimiters (docs/paper_map.md).
    opened = open_prompt(prompt, fmt)
    close, cue = fmt.close, fmt.cue
    if official:
        opened = opened.rstrip("\n")
        close = fmt.close.rstrip("\n")
        cue = "\n" + fmt.cue if fmt.cue else ""
    ends = as_stops(engine.ends, engine.encode)
    stops = (*as_stops(fmt.stops, engine.encode), *ends)
    return Script(
        policy=policy,
        prompt=engine.encode(opened),
        close=engine.encode(close),
        cue=engine.encode(cue) if cue else (),
        newline=engine.encode("\n") if fmt.newline else (),
        waits=tuple(engine.encode(w) if w else () for w in policy.wait),
        transition=engine.encode(policy.transition) if policy.transition else (),
        stops=stops,
        answer_stops=ends,
        context=engine.context,
        decode=engine.decode,
    )


@dataclass
class Forcing:
    """One request on its way. Mutable; the only mutable object of the core."""

    script: Script
    sampling: Sampling = Sampling()
    phase: Phase | Literal["done"] = "thinking"
    thinking: list[int] = field(default_factory=list)
    waits: int = 0
    cut: bool = False
    finish: Finish | None = None
    exact: bool = True
    grace_used: int = 0
    _spans: list[tuple[Phase, Owner, list[int]]] = field(default_factory=list)
    _in_grace: bool = False
    _suppressed: bool = False  # the last thing that happened was a suppressed end
    _masked: bool = False  # below the minimum, without room for the wait string
    _round: int = 0  # tokens of the present round; the official profile counts by rounds
    _left: int = 0  # tokens that the present ask still allows

    def __post_init__(self) -> None:
        policy, room = self.script.policy, self._room()
        self.limit = room - policy.grace if policy.max_thinking is None else policy.max_thinking
        if room < 0:
            raise BadInput(
                f"The prompt has {len(self.script.prompt)} tokens; with its delimiters it does not fit the "
                f"context of {self.script.context}.",
                "Shorten the prompt or take a model with a longer context.",
            )
        if self.limit + policy.grace > room or self.limit < policy.min_thinking or self.limit < 0:
            wanted = ", ".join(
                f"{name} {value}"
                for name in ("max_thinking", "min_thinking", "grace")
                if (value := getattr(policy, name))
            )
            raise BadConfig(
                f"{wanted} exceed the {room} tokens that the context of {self.script.context} leaves "
                "for thinking.",
                "Lower these or max_answer.",
            )
        if len(self.script.transition) > self.limit:
            raise BadConfig(
                f"The transition takes {len(self.script.transition)} of {self.limit} tokens of thinking.",
                "Shorten it or raise max_thinking.",
            )
        self._own("prompt", "forced", self.script.prompt)

    def _room(self) -> int:
        """Tokens that the context leaves for thinking, with at least one for the answer."""
        script = self.script
        ends = len(script.newline) + len(script.close) + len(script.cue)
        return script.context - len(script.prompt) - ends - max(1, script.policy.max_answer or 1)

    # --- what the machine wants ---------------------------------------------------------------------

    def ask(self) -> Ask | None:
        """The next continuation, or None when the request is done."""
        while self.phase == "thinking":
            tokens = self._thinking_left()
            if tokens > 0:
                least = 1 if self._suppressed or (self._official and self.script.policy.waits) else 0
                if self._masked or not any(self.script.waits):  # nothing to append: the end is masked instead
                    least = max(least, self.script.policy.min_thinking - len(self.thinking))
                least = max(0, min(least, tokens))
                return self._asked(Ask(self._prefix(), tokens, self.script.stops, least, self.sampling))
            self._budget_spent()
        if self.phase == "answer":
            prefix, most = self._prefix(), self.script.policy.max_answer
            left = self.script.context - len(prefix)
            tokens = left if most is None else min(most, left)
            if tokens > 0:
                return self._asked(Ask(prefix, tokens, self.script.answer_stops, 0, self.sampling))
            self.finish, self.phase = "length", "done"
        return None

    def _asked(self, ask: Ask) -> Ask:
        self._left = ask.max_tokens
        return ask

    @property
    def _official(self) -> bool:
        return self.script.policy.profile == "official"

    def _thinking_left(self) -> int:
        if self._in_grace:
            return self.script.policy.grace - self.grace_used
        if self._official:  # every round gets the full limit (quirk 1), as far as the context goes
            return min(self.limit - self._round, self._room() - len(self.thinking))
        return self.limit - len(self.script.transition) - len(self.thinking)

    def _prefix(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(ids for _, _, ids in self._spans))

    # --- what the machine is told -------------------------------------------------------------------

    def feed(self, chunk: Chunk) -> bool:
        """Take the next piece of the present continuation; False when no more of it is wanted.

        Raises EngineFailure when the engine gives more than it was asked for; an inexact count may be off.
        """
        self.exact = self.exact and chunk.exact
        if chunk.exact and len(chunk.ids) > self._left:
            raise EngineFailure(
                f"The engine gave more than the {self._left} tokens that were left of its ask."
            )
        self._left -= len(chunk.ids)
        if self.phase == "answer":
            self._own("answer", "model", chunk.ids)
            if chunk.finish:
                self.finish, self.phase = chunk.finish, "done"
            return chunk.finish is None
        if chunk.ids:
            self._suppressed = False
        if self._in_grace:
            for token in chunk.ids:
                self._think("model", (token,))
                self.grace_used += 1
                if self._at_sentence_end():
                    self._cut()
                    return False
        else:
            self._think("model", chunk.ids)
            self._round += len(chunk.ids)
        if chunk.finish == "stop":
            answered = chunk.stop in self.script.answer_stops
            self._thinking_ended(answered and self.script.policy.on_eos_in_thinking == "answer")
        elif chunk.finish == "length":
            self._budget_spent()
        return chunk.finish is None

    def _thinking_ended(self, at_once: bool) -> None:
        """The model wants to end its thinking: suppress that, or let it (`at_once`)."""
        policy = self.script.policy
        if self._in_grace:
            self._cut()
            return
        wait = self.script.waits[self.waits % len(self.script.waits)]
        if self._suppressed and not wait:
            raise EngineFailure("The engine ended its thinking again at once: it does not honour min_tokens.")
        too_short = not at_once and len(self.thinking) < policy.min_thinking
        room = self._official or self._thinking_left() >= len(wait) + 1
        if too_short and not room:
            if self._masked:
                raise EngineFailure("The engine ended its thinking before min_tokens.")
            self._masked = True
            return
        if room and (too_short or (self.waits < policy.waits and not at_once)):
            self._think("forced", wait)
            self.waits += 1
            self._suppressed, self._round = True, 0
            return
        if self._official:
            self.cut = self._trim_to_limit()
            self._close(newline=False, with_cue=False)
        else:
            self._close(newline=self._needs_newline(), with_cue=policy.cue == "always")

    def _budget_spent(self) -> None:
        if self._official:
            newline = self._needs_newline()  # the official code looks at the text, which it does not trim
            self._trim_to_limit()
            self.cut = True
            self._close(newline=newline, with_cue=True)
        elif not self._in_grace and self.script.policy.grace and not self._at_sentence_end():
            self._in_grace = True
        else:
            self._cut()

    def _cut(self) -> None:
        self.cut = True
        if self.script.transition:
            self._think("forced", self.script.transition)
        self._close(newline=self._needs_newline(), with_cue=self.script.policy.cue != "never")

    def _needs_newline(self) -> bool:
        """Whether the delimiter would not stand on a line of its own.

        Differs: the official code adds the newline after a cut only.
        """
        last = (*self.script.prompt[-8:], *self.thinking[-8:])[-8:]
        return bool(self.script.newline) and not self.script.decode(last).endswith("\n")

    def _close(self, *, newline: bool, with_cue: bool) -> None:
        if newline:
            self._own("answer", "forced", self.script.newline)
        self._own("answer", "forced", self.script.close + (self.script.cue if with_cue else ()))
        self.phase = "answer"

    def _trim_to_limit(self) -> bool:
        """The official code cuts what the rounds produced beyond the limit, afterwards and on ids only."""
        surplus = len(self.thinking) - self.limit
        is_over = surplus > 0
        while surplus > 0:
            ids = self._spans[-1][2]
            drop = min(surplus, len(ids))
            del ids[len(ids) - drop :], self.thinking[len(self.thinking) - drop :]
            surplus -= drop
            if not ids:
                self._spans.pop()
        return is_over

    def _at_sentence_end(self) -> bool:
        return self.script.decode(self.thinking[-8:]).rstrip(" ").endswith(SENTENCE_ENDS)

    def _think(self, by: Owner, ids: Sequence[int]) -> None:
        self.thinking.extend(ids)
        self._own("thinking", by, ids)

    def _own(self, phase: Phase, by: Owner, ids: Sequence[int]) -> None:
        if not ids:
            return
        if self._spans and self._spans[-1][:2] == (phase, by):
            self._spans[-1][2].extend(ids)
        else:
            self._spans.append((phase, by, list(ids)))

    @property
    def spans(self) -> Sequence[tuple[Phase, Owner, Sequence[int]]]:
        """The tokens so far in runs of one phase and owner."""
        return self._spans

    # --- the receipt --------------------------------------------------------------------------------

    def result(
        self,
        question_id: str = "",
        sample: int = 0,
        seconds: float = 0.0,
        first_token_seconds: float | None = None,
        error: str | None = None,
    ) -> Generation:
        """The receipt, also of a request that broke off with `error`."""
        texts = texts_of([ids for _, _, ids in self._spans], self.script.decode)
        segments = tuple(
            Segment(tuple(ids), text, phase, by)
            for (phase, by, ids), text in zip(self._spans, texts, strict=True)
        )
        return Generation(
            question_id=question_id,
            sample=sample,
            policy=self.script.policy.label,
            segments=segments,
            thinking_tokens=sum(len(s.token_ids) for s in segments if s.phase == "thinking"),
            answer_tokens=sum(len(s.token_ids) for s in segments if s.phase == "answer" and s.by == "model"),
            forced_tokens=sum(len(s.token_ids) for s in segments if s.phase != "prompt" and s.by == "forced"),
            waits=self.waits,
            cut=self.cut,
            grace_used=self.grace_used,
            finish=self.finish,
            exact=self.exact,
            seconds=seconds,
            first_token_seconds=first_token_seconds,
            seed=self.sampling.seed,
            error=error,
        )


def texts_of(parts: Sequence[Sequence[int]], decode: Callable[[Sequence[int]], str]) -> list[str]:
    """Text of each part so that they join to the text of the whole: a character that spans two parts goes
    to the one that completes it."""
    texts, done, before = [], "", list[int]()
    for part in parts:
        before.extend(part)
        whole = decode(before)
        stable = whole.rstrip("\ufffd") if part is not parts[-1] else whole
        texts.append(stable[len(done) :])
        done = stable if len(stable) > len(done) else done
    return texts


async def drive(
    forcing: Forcing,
    engine: Engine,
    question_id: str = "",
    sample: int = 0,
    watch: Callable[[Forcing], None] = lambda forcing: None,
) -> Generation:
    """Walk one request to its end. An engine that breaks is recorded on the receipt, not raised.

    `watch` is called whenever tokens have come, forced ones included, for example to show them.
    """
    began, first, error = time.perf_counter(), None, None
    try:
        while (ask := forcing.ask()) is not None:
            watch(forcing)
            finished = False
            async with aclosing(engine.stream(ask)) as chunks:
                async for chunk in chunks:
                    if first is None and chunk.ids:
                        first = time.perf_counter() - began
                    finished = not forcing.feed(chunk)
                    watch(forcing)
                    if finished:
                        break
            if not finished:
                raise EngineFailure("The engine ended a continuation without saying how.")
    except EngineFailure as failure:
        error = str(failure)
    return forcing.result(question_id, sample, time.perf_counter() - began, first, error)
