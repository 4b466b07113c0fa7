"""Budget forcing (section 3.1): a pure state machine. `drive.py` connects it to an engine.

    thinking --stop, waits left or below the minimum--> append wait, thinking
    thinking --stop----------------------------------> append close, answer
    thinking --limit reached-------------------------> (grace) append close and cue, answer
    thinking --loop----------------------------------> append wait, or append close and cue
    thinking --turned by a client--------------------> the same with other waits or another limit, or cut at once
    answer   --stop or length------------------------> done

The machine does not know engines, tokenizers or networks: `ask()` returns the continuation that it wants next,
`feed()` takes what the engine decoded. Every token has an owner. The thinking budget is what remains, recomputed
at every ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import ClassVar, Literal

from s1.errors import BadConfig, BadInput, EngineFailure
from s1.loops import loop_end
from s1.prompt import EncodedPrompt, room_for
from s1.types import (
    Chunk,
    Continuation,
    CutBy,
    Finish,
    Generation,
    Owner,
    Phase,
    Sampling,
    Segment,
    Stop,
    TokenLogprob,
    texts_of,
)

SENTENCE_ENDS = (".", "!", "?", "\n", "。")


@dataclass
class Forcing:
    """One request while it runs. The only mutable object of the core.

    Raises BadInput when the prompt does not fit the context, BadConfig when the policy needs more than its room.
    """

    by_rounds: ClassVar[bool] = False
    """True: one request for each continuation, also where the engine could force by itself."""
    encoded: EncodedPrompt
    sampling: Sampling = Sampling()
    phase: Phase | Literal["done"] = "thinking"
    thinking: list[int] = field(default_factory=list)
    waits: int = 0
    cut_by: CutBy | None = None
    finish: Finish | None = None
    exact: bool = True
    grace_used: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of the model's tokens of the answer, where they are asked for."""
    spans: list[tuple[Phase, Owner, list[int]]] = field(default_factory=list)
    """The tokens so far in runs of one phase and owner."""
    _in_grace: bool = False
    _suppressed: bool = False  # the last event was a suppressed end
    _masked: bool = False  # below the minimum, and the wait string does not fit
    _round: int = 0  # tokens of the current round; the official profile counts by rounds
    _left: int = 0  # tokens that the current request still allows
    _drawn: int = 0  # the position after the last end that the model drew
    _redraw: int = 0  # how often a request has begun before that position
    _more_waits: int = 0  # waits that a client has asked for while the request runs
    _turned: bool = False  # a client has changed the limit
    _answer_now: bool = False
    _unlooped: int = 0  # thinking before the last loop that was found; it counts no more

    def __post_init__(self) -> None:
        encoded, policy = self.encoded, self.encoded.policy
        room = room_for(encoded)
        self._room, self.limit = room.thinking, room.limit
        if self._room < 0:
            raise BadInput(
                f"The prompt has {len(encoded.prompt)} tokens; with its delimiters it does not fit the "
                f"context of {encoded.context}.",
                "Shorten the prompt or use a model with a longer context.",
            )
        self._check_limit(policy.max_thinking)
        self._own("prompt", "format", self.encoded.prompt)

    def _check_limit(self, max_thinking: int | None) -> None:
        policy = self.encoded.policy
        limit = self.limit if max_thinking is None else max_thinking
        if limit + policy.grace > self._room or limit < policy.min_thinking or limit < 0:
            given = {"max_thinking": max_thinking, "min_thinking": policy.min_thinking, "grace": policy.grace}
            wanted = ", ".join(f"{name} {value}" for name, value in given.items() if value)
            raise BadConfig(
                f"{wanted or 'The answer'} needs more than the {self._room} tokens left for thinking in "
                f"{self.encoded.context} tokens (the context, or the limit of the request).",
                "Lower these limits or max_answer.",
            )
        if (transition := len(self.encoded.transition)) > limit:
            raise BadConfig(
                f"The transition takes {transition} of {limit} tokens of thinking.",
                "Shorten it or raise max_thinking.",
            )

    # --- what the machine wants ---------------------------------------------------------------------

    def ask(self) -> Continuation | None:
        """The next continuation, or None when the request is done."""
        while self.phase == "thinking":
            if self._answer_now:
                self._cut("answer_now")
                break
            tokens = self._thinking_left()
            if tokens > 0:
                least = 1 if self._suppressed or (self._official and self.encoded.policy.waits) else 0
                if self._masked or not any(self.encoded.waits):  # nothing to append: mask the end instead
                    least = max(least, self.encoded.policy.min_thinking - len(self.thinking))
                least = max(0, min(least, tokens))
                return self._begin(self._prefix(), tokens, self.encoded.stops, least)
            self._budget_spent()
        if self.phase == "answer":
            prefix = self._prefix()
            limits = (self.encoded.policy.max_answer, self.encoded.answer_limit)
            tokens = min([self.encoded.context - len(prefix), *(n for n in limits if n is not None)])
            if tokens > 0:
                request = self._begin(prefix, tokens, self.encoded.answer_stops)
                return replace(request, json_schema=self.encoded.json_schema, logprobs=self.encoded.logprobs)
            self.finish, self.phase = "length", "done"
        return None

    def _begin(
        self, prefix: tuple[int, ...], tokens: int, stops: tuple[Stop, ...], least: int = 0
    ) -> Continuation:
        if len(prefix) < self._drawn:  # the numbers from here on are known to fall on an end
            self._redraw += 1
            self._drawn = 0
        self._left = tokens
        return Continuation(prefix, tokens, stops, least, self.sampling, self._redraw)

    @property
    def _official(self) -> bool:
        return self.encoded.policy.profile == "official"

    def _thinking_left(self) -> int:
        if self._in_grace:
            return self.encoded.policy.grace - self.grace_used
        if self._official:  # every round gets the full limit (quirk 1), within the context
            return min(self.limit - self._round, self._room - len(self.thinking))
        return self.limit - len(self.encoded.transition) - len(self.thinking)

    def _prefix(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(ids for _, _, ids in self.spans))

    # --- what the engine decoded -------------------------------------------------------------------

    def feed(self, chunk: Chunk) -> bool:
        """Take the next piece of the current continuation. Returns False when no more of it is wanted.

        Raises EngineFailure when the engine returns more tokens than requested, unless its counts are inexact.
        """
        self.exact = self.exact and chunk.exact
        if chunk.exact and len(chunk.ids) > self._left:
            raise EngineFailure(f"The engine returned more than the {self._left} tokens left of its request.")
        self._left -= len(chunk.ids)
        if self.phase == "answer":
            self._own("answer", "model", chunk.ids)
            self.logprobs.extend(chunk.logprobs)
            if chunk.finish:
                self.finish, self.phase = chunk.finish, "done"
            return chunk.finish is None
        if self._answer_now:  # what the engine has decoded meanwhile is dropped
            self._cut("answer_now")
            return False
        ids, finish, policy = chunk.ids, chunk.finish, self.encoded.policy
        if ids:
            self._suppressed = False
        if self._in_grace:
            for token in ids:
                self._think("model", (token,))
                self.grace_used += 1
                if self._at_sentence_end():
                    self._cut("limit")
                    return False
        else:
            if self._turned and len(ids) >= (left := self._thinking_left()):
                ids, finish = ids[: max(0, left)], "length"
            looped = None if policy.on_loop == "ignore" else loop_end(self.thinking, ids, self._unlooped)
            ids = ids[:looped]
            self._think("model", ids)
            self._round += len(ids)
            if looped is not None:
                self._loop_found()
                return False
        if finish == "stop":
            self._drawn = len(self._prefix()) + (len(chunk.stop.ids) if chunk.stop else 1)
            answered = chunk.stop in self.encoded.answer_stops
            self._thinking_ended(answered and policy.on_eos_in_thinking == "answer", chunk.stop)
        elif finish == "length":
            self._budget_spent()
        return finish is None

    def _thinking_ended(self, at_once: bool, stop: Stop | None) -> None:
        """The model ends its thinking with `stop`: suppress that, or let it answer. `at_once`: never suppress."""
        policy = self.encoded.policy
        if self._in_grace:
            self._cut("limit")
            return
        wait = self.encoded.waits[self.waits % len(self.encoded.waits)]
        if self._suppressed and not wait:
            raise EngineFailure("The engine ended its thinking again at once: it ignores min_tokens.")
        too_short = not at_once and len(self.thinking) < policy.min_thinking
        room = self._official or self._thinking_left() >= len(wait) + 1
        if too_short and not room:
            if self._masked:
                raise EngineFailure("The engine ended its thinking before min_tokens.")
            self._masked = True
            return
        if room and (too_short or (self._waits_left() and not at_once)):
            self._append_wait(wait)
            return
        if self._official:
            self.cut_by = "limit" if self._trim_to_limit() else None
            self._close(newline=False, with_cue=False, stop=None if self.cut else stop)
        else:
            self._close(newline=self._needs_newline(), with_cue=policy.cue == "always", stop=stop)

    def _waits_left(self) -> bool:
        return self.waits < self.encoded.policy.waits + self._more_waits

    def _append_wait(self, wait: tuple[int, ...]) -> None:
        self._think("forced", wait)
        self.waits += 1
        self._suppressed, self._round = True, 0

    def _loop_found(self) -> None:
        policy, wait = self.encoded.policy, self.encoded.waits[self.waits % len(self.encoded.waits)]
        self._unlooped = len(self.thinking)
        room = wait and self._thinking_left() >= len(wait) + 1
        if policy.on_loop == "wait" and self._waits_left() and room:
            self._append_wait(wait)
        elif len(self.thinking) >= policy.min_thinking:
            self._cut("loop")

    def _budget_spent(self) -> None:
        if self._turned and not self._in_grace and self._thinking_left() > 0:
            return  # the limit was raised after the request
        if self._official:
            newline = self._needs_newline()  # the official code checks the text, which it does not trim
            self._trim_to_limit()
            self.cut_by = "limit"
            self._close(newline=newline, with_cue=True)
        elif not self._in_grace and self.encoded.policy.grace and not self._at_sentence_end():
            self._in_grace = True
        else:
            self._cut("limit")

    def _cut(self, by: CutBy) -> None:
        self.cut_by = by
        if self.encoded.transition:
            self._think("forced", self.encoded.transition)
        self._close(newline=self._needs_newline(), with_cue=self.encoded.policy.cue != "never")

    def _needs_newline(self) -> bool:
        """Whether the delimiter needs a newline before it to be on its own line.

        Differs: the official code adds the newline only after a cut.
        """
        last = (*self.encoded.prompt[-8:], *self.thinking[-8:])[-8:]
        return bool(self.encoded.newline) and not self.encoded.decode(last).endswith("\n")

    def _close(self, *, newline: bool, with_cue: bool, stop: Stop | None = None) -> None:
        """Append the delimiter. Where the model wrote one, `stop`, what it wrote is its own and the rest the format's;
        an end of turn is no delimiter."""
        close, drawn = self.encoded.close, 0
        by: Owner = "forced"
        if stop is not None and stop not in self.encoded.answer_stops:
            by, drawn = "format", len(stop.ids) if close[: len(stop.ids)] == stop.ids else 0
        self._own("delimiter", by, self.encoded.newline if newline else ())
        self._own("delimiter", "model", close[:drawn])
        self._own("delimiter", by, close[drawn:])
        self._own("delimiter", "forced", self.encoded.cue if with_cue else ())
        self.phase = "answer"

    def _trim_to_limit(self) -> bool:
        """Drop what the rounds produced beyond the limit, as the official code does. Returns whether any was."""
        surplus = len(self.thinking) - self.limit
        is_over = surplus > 0
        while surplus > 0:
            ids = self.spans[-1][2]
            drop = min(surplus, len(ids))
            del ids[len(ids) - drop :], self.thinking[len(self.thinking) - drop :]
            surplus -= drop
            if not ids:
                self.spans.pop()
        return is_over

    def _at_sentence_end(self) -> bool:
        return self.encoded.decode(self.thinking[-8:]).rstrip(" ").endswith(SENTENCE_ENDS)

    def _think(self, by: Owner, ids: Sequence[int]) -> None:
        self.thinking.extend(ids)
        self._own("thinking", by, ids)

    def _own(self, phase: Phase, by: Owner, ids: Sequence[int]) -> None:
        if not ids:
            return
        if self.spans and self.spans[-1][:2] == (phase, by):
            self.spans[-1][2].extend(ids)
        else:
            self.spans.append((phase, by, list(ids)))

    @property
    def cut(self) -> bool:
        """Whether the thinking was ended for the model."""
        return self.cut_by is not None

    # --- turned while it runs ----------------------------------------------------------------------

    def turn(self, *, wait: bool = False, answer_now: bool = False, max_thinking: int | None = None) -> None:
        """Change the budget of a request that is thinking; it takes effect with the next token.

        wait: suppress one more end of thinking. answer_now: cut here, without grace or minimum. max_thinking:
        another limit in tokens; below what has been thought it cuts here. Raises BadConfig for a limit that
        does not fit, and when the thinking is over.
        """
        if self.phase != "thinking" or self._answer_now:
            raise BadConfig("The thinking is over.", "Turn a request while it thinks.")
        if self._official:
            raise BadConfig("The official profile cannot be turned.", "Use the strict profile.")
        if max_thinking is not None:
            self._check_limit(replace(self.encoded.policy, max_thinking=max_thinking).max_thinking)
            self.limit, self._turned = max_thinking, True
            if self._in_grace and max_thinking > len(self.thinking) + len(self.encoded.transition):
                self._in_grace, self.grace_used = False, 0
        self._more_waits += wait
        self._answer_now = answer_now

    # --- the result --------------------------------------------------------------------------------

    def result(
        self,
        question_id: str = "",
        sample: int = 0,
        seconds: float = 0.0,
        first_token_seconds: float | None = None,
        error: str | None = None,
    ) -> Generation:
        """The generation, complete or ended early by `error`. Times in seconds."""
        texts = texts_of([ids for _, _, ids in self.spans], self.encoded.decode)
        segments = tuple(
            Segment(tuple(ids), text, phase, by)
            for (phase, by, ids), text in zip(self.spans, texts, strict=True)
        )
        return Generation(
            question_id=question_id,
            sample=sample,
            policy=self.encoded.policy.key,
            segments=segments,
            thinking_tokens=sum(len(s.token_ids) for s in segments if s.phase == "thinking"),
            answer_tokens=sum(len(s.token_ids) for s in segments if s.phase == "answer"),
            forced_tokens=sum(len(s.token_ids) for s in segments if s.by == "forced"),
            waits=self.waits,
            cut=self.cut,
            grace_used=self.grace_used,
            finish=self.finish,
            exact=self.exact,
            seconds=seconds,
            first_token_seconds=first_token_seconds,
            seed=self.sampling.seed,
            error=error,
            cut_by=self.cut_by,
        )
