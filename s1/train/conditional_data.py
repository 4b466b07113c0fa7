"""Training sets for conditional control (section 4.1): the same traces, with prompts that state their length.

token   the prompt asks for the trace's length in tokens, rounded up to a power of two.
step    the trace is split into steps, each opened by a line that counts down; 0 closes the thinking. Differs:
        the number of steps is also rounded up to a power of two, so that "up to" holds.

The texts are those with which `s1.methods.conditional` prompts the trained model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from s1.formats import ThinkingFormat
from s1.methods.conditional import step_format, step_line, step_mark, with_limit
from s1.types import Trace

KINDS = ("token", "step")
BLANK_LINES = r"\n\s*\n"
"""Where the paper splits a trace into steps."""


def conditional_traces(
    traces: Sequence[Trace],
    kind: str,
    fmt: ThinkingFormat,
    *,
    count: Callable[[str], int],
    between_steps: str = BLANK_LINES,
) -> tuple[list[Trace], ThinkingFormat]:
    """The traces with their lengths in the prompts, and the format to render them in.

    `kind` is one of KINDS; `count` gives the tokens of a text; `between_steps` is a regular expression for what
    separates steps.
    """
    if kind == "token":
        return [_with_tokens(trace, count(trace.thinking)) for trace in traces], fmt
    return [_with_steps(trace, fmt, between_steps) for trace in traces], step_format(fmt)


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least `n`.

    >>> power_of_two(5), power_of_two(8)
    (8, 8)
    """
    return 1 << max(0, n - 1).bit_length()


def _with_tokens(trace: Trace, tokens: int) -> Trace:
    question = replace(trace.question, text=with_limit(trace.question.text, power_of_two(tokens), "tokens"))
    return replace(trace, question=question)


def _with_steps(trace: Trace, fmt: ThinkingFormat, between: str) -> Trace:
    steps = [part.strip() for part in re.split(between, trace.thinking.strip()) if part.strip()]
    lines = [f"{step_line(fmt, len(steps) - i)}{step}\n" for i, step in enumerate(steps)]
    thinking = "".join([*lines, step_line(fmt, 0)]).removeprefix(
        step_mark(fmt)
    )  # the prompt ends in the mark
    question = replace(
        trace.question, text=with_limit(trace.question.text, power_of_two(len(steps)), "steps")
    )
    return replace(trace, question=question, thinking=thinking)
