"""What both harnesses need of one request: the prompt, what may be shown of the result, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s1.errors import BadInput, Unsupported
from s1.formats import ThinkingFormat
from s1.types import Engine, Generation


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
