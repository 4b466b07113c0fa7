"""A prompt in token ids, with its format and policy, and how its context is divided into thinking and answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from s1.errors import BadConfig
from s1.formats import ThinkingFormat, as_stops, encode_after, open_prompt
from s1.policy import BudgetPolicy
from s1.types import Engine, Stop

ANSWER_RESERVE = 2048
"""Tokens of the context kept for the answer when neither thinking nor answer has a limit; at most a quarter."""


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt, its format and its policy in token ids: all that `Forcing` needs from a tokenizer."""

    policy: BudgetPolicy
    prompt: tuple[int, ...]
    """The prompt with the thinking block opened."""
    close: tuple[int, ...]
    cue: tuple[int, ...]
    newline: tuple[int, ...]
    """Appended before `close` when the thinking does not end in a newline; empty when the format needs none."""
    waits: tuple[tuple[int, ...], ...]
    transition: tuple[int, ...]
    stops: tuple[Stop, ...]
    """What ends thinking: the delimiters and the end of turn."""
    answer_stops: tuple[Stop, ...]
    context: int
    decode: Callable[[Sequence[int]], str]
    answer_limit: int | None = None
    """A limit of the answer that, unlike the policy's `max_answer`, reserves nothing in the context."""
    json_schema: str | None = None
    """The JSON schema that the answer follows. The thinking is free."""
    logprobs: int | None = None
    """How many of the likeliest tokens are reported at each place of the answer; None: no report."""

    @property
    def forced_end(self) -> int:
        """Most tokens that can be forced between thinking and answer."""
        return len(self.newline) + len(self.close) + len(self.cue)


def encode_prompt(
    engine: Engine,
    fmt: ThinkingFormat,
    policy: BudgetPolicy,
    prompt: str,
    *,
    stops: Sequence[str] = (),
    answer_limit: int | None = None,
    total_limit: int | None = None,
) -> EncodedPrompt:
    """Encode a rendered prompt, the format and the policy for one engine.

    stops: strings that end the answer, never the thinking. answer_limit: most tokens of the answer.
    total_limit: most tokens of thinking, delimiters and answer together.
    Raises BadInput for a prompt that does not fit, BadConfig for limits that contradict each other.
    """
    official = policy.profile == "official"
    # In the official code the model writes the newlines around the delimiters (docs/paper_map.md).
    opened = open_prompt(prompt, fmt)
    close, cue = fmt.close, fmt.cue
    if official:
        opened = opened.rstrip("\n")
        close = fmt.close.rstrip("\n")
        cue = "\n" + fmt.cue if fmt.cue else ""

    def encode(text: str) -> tuple[int, ...]:
        """The ids of a text that follows others."""
        ids = encode_after(text, engine.encode, engine.decode) if text else ()
        if ids is None:
            raise BadConfig(
                f"The tokenizer of {engine.name} cannot add {text!r} to a text without changing it.",
                "Choose another string or format; s1 doctor shows what the tokenizer knows.",
            )
        return ids

    def encode_stop(text: str) -> tuple[int, ...]:
        """The same for a text that is only looked for, so that any ids will do."""
        return encode_after(text, engine.encode, engine.decode) or engine.encode(text)

    eos = as_stops(engine.eos_texts, engine.encode)
    if not all(stops):
        raise BadConfig("A stop string is empty.", "Remove it: it would end every answer before it begins.")
    more = as_stops([s for s in dict.fromkeys(stops) if s not in engine.eos_texts], encode_stop)
    for name, limit in (("The answer limit", answer_limit), ("The total limit", total_limit)):
        if limit is not None and limit < 1:
            raise BadConfig(f"{name} is {limit} tokens.", "Use 1 or more.")
    encoded = EncodedPrompt(
        policy=policy,
        prompt=engine.encode(opened),
        close=encode(close),
        cue=encode(cue),
        newline=encode("\n") if fmt.newline else (),
        waits=tuple(map(encode, policy.wait)),
        transition=encode(policy.transition),
        stops=(*as_stops(fmt.stops, encode_stop), *eos),
        answer_stops=(*eos, *more),
        context=engine.context,
        decode=engine.decode,
        answer_limit=answer_limit,
    )
    if total_limit is None:
        return encoded
    least = encoded.forced_end + max(1, policy.max_answer or 1)
    if total_limit < least:
        raise BadConfig(
            f"The total limit is {total_limit} tokens; the delimiters and the answer need {least}.",
            "Raise the limit or lower max_answer.",
        )
    return replace(encoded, context=min(engine.context, len(encoded.prompt) + total_limit))


@dataclass(frozen=True, slots=True)
class Room:
    """What a context leaves after the prompt and the forced end, in tokens."""

    thinking: int
    """Most tokens that fit as thinking; negative when the prompt does not fit."""
    limit: int
    """Where this request's thinking ends: the policy's limit, or what is left after the answer's reserve."""


def room_for(encoded: EncodedPrompt) -> Room:
    """The one place where a context is divided into thinking and answer.

    The answer keeps the policy's `max_answer`. When neither thinking nor answer has a limit, it keeps a
    quarter of the room, at most ANSWER_RESERVE, or the `answer_limit` if that is less. Otherwise it keeps one
    token. The official profile reserves one token for the answer, as its code does.
    """
    policy = encoded.policy
    both = encoded.context - len(encoded.prompt) - encoded.forced_end
    thinking = both - max(1, policy.max_answer or 1)
    if policy.max_thinking is not None:
        return Room(thinking, policy.max_thinking)
    limit = thinking - policy.grace
    if policy.max_answer is None and policy.profile == "strict":
        reserve = min(ANSWER_RESERVE, both // 4, encoded.answer_limit or ANSWER_RESERVE)
        least = max(policy.min_thinking, len(encoded.transition))
        limit = max(min(least, limit), limit - max(0, reserve - 1))
    return Room(thinking, limit)
