"""One request of a harness: its limits and stops put upon the policy, and what may be shown of the result.

A harness has one number for how much may be written; thinking has a budget of its own. Two readings:

    answer limit   the number bounds the text that the harness gets, so thinking is not counted (lm-eval)
    total limit    the number bounds thinking, delimiters and answer together (Inspect AI)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from s1.budget import BudgetPolicy, Forcing, make_script
from s1.errors import BadConfig, BadInput, Unsupported
from s1.formats import ThinkingFormat, as_stops
from s1.types import Ask, Engine, Generation, Sampling

ANSWER_ROOM = 2048
"""Tokens kept for the answer where neither the policy nor the request limits the thinking: as `s1 think`."""


@dataclass
class LimitedForcing(Forcing):
    """A walk whose answer has a limit of the request's own.

    The policy's `max_answer` is a limit and also a reservation. A request's limit is often as large as the
    context; reserved, it would leave nothing to think with.
    """

    answer_limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        policy = self.script.policy
        if policy.max_thinking is None and policy.max_answer is None:
            kept = min(ANSWER_ROOM, self.limit // 4)
            if self.answer_limit is not None:
                kept = min(kept, self.answer_limit)
            least = max(policy.min_thinking, len(self.script.transition))
            self.limit = max(least, self.limit - max(0, kept - 1))  # one token is reserved already

    def ask(self) -> Ask | None:
        ask = super().ask()
        if ask is not None and self.phase == "answer" and self.answer_limit is not None:
            ask = replace(ask, max_tokens=min(ask.max_tokens, self.answer_limit))
        return ask


def begin(
    engine: Engine,
    fmt: ThinkingFormat,
    policy: BudgetPolicy,
    prompt: str,
    sampling: Sampling,
    *,
    stops: Sequence[str] = (),
    answer_limit: int | None = None,
    total_limit: int | None = None,
) -> Forcing:
    """The walk of one rendered prompt. `stops` end the answer, never the thinking.

    Raises BadInput for a prompt that does not fit, BadConfig for limits that contradict each other.
    """
    for name, limit in (("The limit of the answer", answer_limit), ("The limit", total_limit)):
        if limit is not None and limit < 1:
            raise BadConfig(f"{name} is {limit} tokens.", "Use 1 or more.")
    if not all(stops):
        raise BadConfig("A stop string is empty.", "Remove it: every answer would end before it begins.")
    script = make_script(engine, fmt, policy, prompt)
    more = as_stops([s for s in dict.fromkeys(stops) if s not in engine.ends], engine.encode)
    script = replace(script, answer_stops=script.answer_stops + more)
    if total_limit is not None and len(script.prompt) + total_limit < script.context:
        ends = len(script.newline) + len(script.close) + len(script.cue)
        needed = max(policy.max_thinking or 0, policy.min_thinking) + policy.grace + ends
        needed += max(1, policy.max_answer or 1)
        if total_limit < needed:
            raise BadConfig(
                f"A limit of {total_limit} tokens for thinking and answer is too low for {policy.label}, which "
                f"with its delimiters and {max(1, policy.max_answer or 1)} for the answer needs {needed}.",
                "Raise the limit or lower max_thinking.",
            )
        script = replace(script, context=len(script.prompt) + total_limit)
    return LimitedForcing(script, sampling, answer_limit=answer_limit)


def render(engine: Engine, messages: Sequence[Mapping[str, str]]) -> str:
    """The chat template applied. BadInput where the template refuses the conversation."""
    from jinja2 import TemplateError

    try:
        return engine.render(messages)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        raise BadInput(
            f"The chat template refuses a conversation of {roles}: {error}",
            "Leave out what it does not know, such as the system message.",
        ) from error


def shown_text(generation: Generation, fmt: ThinkingFormat, with_thinking: bool = False) -> str:
    """What the harness gets to see: the answer, or everything after the prompt, delimiters included.

    The answer begins with the format's cue where that was forced, and has no blank space around it.
    """
    text = generation.text_of("answer")
    if with_thinking:
        return fmt.open + generation.text_of("thinking") + text.rstrip()
    before, _, answer = text.partition(fmt.close.strip())  # the answer phase begins with the forced delimiter
    return (text if before.strip() else answer).strip()


def seed_of(*parts: object) -> int:
    """A seed that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:7])


def counts(generation: Generation) -> dict[str, Any]:
    """What forcing did and what it cost, for logs that show no more than numbers."""
    return {
        "policy": generation.policy,
        "thinking_tokens": generation.thinking_tokens,
        "answer_tokens": generation.answer_tokens,
        "forced_tokens": generation.forced_tokens,
        "waits": generation.waits,
        "cut": generation.cut,
        "finish": generation.finish,
        "exact": generation.exact,
    }


def refuse(what: str, hint: str) -> Unsupported:
    """The error for something a harness asks for that an engine of s1 does not do."""
    return Unsupported(f"s1 models do not support {what}.", hint)
