"""Think about one question. The thinking goes to stderr, forced spans marked; the answer to stdout."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from s1.cli.common import add_model, default_model, limit, open_engine

if TYPE_CHECKING:
    from s1.budget import Forcing
    from s1.types import Generation, Owner, Phase

FORCED, PLAIN = "\x1b[1;33m", "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help='the question; "-" reads it from standard input')
    add_model(parser)
    parser.add_argument(
        "--max-thinking", type=limit, metavar="N",
        help="thinking ends after N tokens; auto (the default): what the context leaves",
    )  # fmt: skip
    parser.add_argument(
        "--min-thinking", type=int, default=0, metavar="N", help="an earlier end is suppressed"
    )
    parser.add_argument(
        "--waits", type=int, default=0, metavar="N", help="suppress the end of thinking N times"
    )
    parser.add_argument(
        "--wait",
        action="append",
        metavar="TEXT",
        help="what is appended instead (default: Wait); given several times: in turn",
    )
    parser.add_argument(
        "--max-answer",
        type=int,
        metavar="N",
        help="limit of the answer, tokens (default: what the context leaves)",
    )
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0 is greedy")
    parser.add_argument("--seed", type=int, help="makes a sampled run repeatable")
    parser.add_argument("--system", metavar="TEXT", help="system message before the question")
    parser.add_argument("--json", action="store_true", help="print the receipt as JSON, and nothing else")


def run(arguments: argparse.Namespace) -> int:
    import asyncio

    from s1.budget import Forcing, drive
    from s1.errors import BadConfig, BadInput
    from s1.formats import choose_format
    from s1.policy import BudgetPolicy
    from s1.prompt import encode_prompt
    from s1.types import Sampling, to_json

    question = sys.stdin.read().strip() if arguments.question == "-" else arguments.question
    if not question.strip():
        raise BadInput("The question is empty.", "Give a text, or - and a text on standard input.")
    if arguments.seed is not None and not arguments.temperature:
        raise BadConfig(
            "--seed changes nothing at temperature 0.", "Add --temperature, or leave the seed out."
        )
    policy = BudgetPolicy(
        max_thinking=arguments.max_thinking,
        min_thinking=arguments.min_thinking,
        waits=arguments.waits,
        wait=tuple(arguments.wait or ("Wait",)),
        max_answer=arguments.max_answer,
    )
    sampling = Sampling(temperature=arguments.temperature, seed=arguments.seed)
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    messages.append({"role": "user", "content": question})
    engine = open_engine(default_model(arguments.model))
    shown = Shown(engine.decode, sys.stderr, sys.stdout)

    async def go() -> Generation:
        try:
            prompt = engine.render(messages)
            encoded = encode_prompt(engine, choose_format(engine, arguments.format), policy, prompt)
            watch = (lambda f: None) if arguments.json else shown.update
            return await drive(Forcing(encoded, sampling), engine, watch=watch)
        finally:
            await engine.close()

    generation = asyncio.run(go())
    if arguments.json:
        print(json.dumps(to_json(generation)))
    else:
        shown.end()
        print(summary(generation), file=sys.stderr)
    if generation.error:
        print(f"s1 think: {generation.error}", file=sys.stderr)
        return 2
    return 0


def summary(generation: Generation) -> str:
    """The receipt in one line."""
    ended = "cut" if generation.cut else "ended by itself"
    counted = "" if generation.exact else "about "
    return (
        f"[{counted}{generation.thinking_tokens} thinking tokens, {generation.waits} waits, {ended}; "
        f"{generation.answer_tokens} answer tokens; {generation.seconds:.1f} s]"
    )


class Shown:
    """Shows a request while it comes: thinking and forced text on one stream, the answer on the other.

    BudgetForcing text is in colour on a terminal, in square brackets elsewhere. The answer loses the blank space
    around it, so that a pipe gets the answer alone.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], thinking: TextIO, answer: TextIO) -> None:
        self._decode, self._thinking, self._answer = decode, thinking, answer
        self._colour = thinking.isatty() and not os.environ.get("NO_COLOR")
        self._ids: list[int] = []  # all tokens so far; the prompt is context for decoding, never shown
        self._window, self._done = 0, 0  # the text of _ids[:_done] is out; decoding begins at _window
        self._span, self._taken = 0, 0
        self._blank = ""  # blank space of the answer that waits for a word
        self._answered = False
        self._owner: tuple[Phase, Owner] = ("thinking", "model")

    def update(self, forcing: Forcing) -> None:
        """Show what has come since the last call."""
        spans = forcing.spans
        while self._span < len(spans):
            phase, by, ids = spans[self._span]
            last = self._span == len(spans) - 1
            self._ids.extend(ids[self._taken :])
            self._taken = len(ids)
            if phase == "prompt":
                self._window, self._done = max(0, len(self._ids) - 4), len(self._ids)
            else:
                self._owner = (phase, by)
                self._show(self._more(final=not last), phase, by)
            if last:
                return
            self._span, self._taken = self._span + 1, 0

    def end(self) -> None:
        """Close both streams' last lines."""
        self._show(self._more(final=True), *self._owner)
        print(file=self._answer if self._answered else self._thinking, flush=True)

    def _more(self, *, final: bool) -> str:
        """The text of the new tokens. Half a character waits for the rest, unless none can come.

        Only a window is decoded: the batch before gives the decoder its context.
        """
        before = self._decode(self._ids[self._window : self._done])
        whole = self._decode(self._ids[self._window :])
        if whole.endswith("\ufffd") and not final:
            return ""
        self._window, self._done = self._done, len(self._ids)
        return whole[len(before) :]

    def _show(self, text: str, phase: Phase, by: Owner) -> None:
        if not text:
            return
        if by == "forced":
            text = f"{FORCED}{text}{PLAIN}" if self._colour else f"[{text}]"
        elif phase == "answer":
            self._show_answer(text)
            return
        print(text, end="", file=self._thinking, flush=True)

    def _show_answer(self, text: str) -> None:
        text = self._blank + text
        if not self._answered:
            text = text.lstrip()
            if text:
                print(file=self._thinking, flush=True)  # the answer begins on a line of its own
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        if kept:
            self._answered = True
            print(kept, end="", file=self._answer, flush=True)
