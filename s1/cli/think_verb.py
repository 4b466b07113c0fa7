"""Think about one question. The thinking goes to stderr with forced text marked, the answer to stdout."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

from s1.budget import Forcing
from s1.cli.options import add_budget, add_model, add_sampling, budget_policy, open_engine, sampling
from s1.drive import drive
from s1.errors import BadInput
from s1.formats import choose_format
from s1.prompt import encode_prompt
from s1.span_text import SpanText
from s1.terminal import visible
from s1.types import Generation, Owner, Phase, to_json

FORCED, PLAIN = "\x1b[1;33m", "\x1b[0m"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("question", help='the question; "-" reads it from standard input')
    parser.add_argument("--system", metavar="TEXT", help="system message before the question")
    parser.add_argument("--json", action="store_true", help="print the generation as JSON and nothing else")
    add_model(parser)
    add_budget(parser)
    add_sampling(parser)


def run(arguments: argparse.Namespace) -> int:
    question = _standard_input() if arguments.question == "-" else arguments.question
    if not question.strip():
        raise BadInput("The question is empty.", "Give a text, or - and a text on standard input.")
    policy, how = budget_policy(arguments), sampling(arguments)
    messages = [{"role": "system", "content": arguments.system}] if arguments.system else []
    messages.append({"role": "user", "content": question})
    engine = open_engine(arguments.model, arguments.format)
    shown = StreamedText(engine.decode, sys.stderr, sys.stdout)

    async def think() -> tuple[Forcing, Generation]:
        try:
            fmt = choose_format(engine, arguments.format)
            forcing = Forcing(encode_prompt(engine, fmt, policy, engine.render(messages)), how)
            watch = (lambda forcing: None) if arguments.json else shown.update
            return forcing, await drive(forcing, engine, watch=watch)
        finally:
            await engine.close()

    forcing, generation = asyncio.run(think())
    if arguments.json:
        print(json.dumps(to_json(generation)))
    else:
        shown.end(forcing)
        print(summary(generation), file=sys.stderr)
    if generation.error:
        print(visible(f"s1 think: {generation.error}"), file=sys.stderr)
        return 2
    return 0


def _standard_input() -> str:
    try:
        text = sys.stdin.read().strip()
        text.encode()  # some locales read wrong bytes as lone surrogates
    except UnicodeError:
        raise BadInput("Standard input is not valid UTF-8.", "Give the question in UTF-8.") from None
    return text


def summary(generation: Generation) -> str:
    """The generation in one line."""
    ended = "ended by itself" if generation.cut_by is None else f"cut ({generation.cut_by})"
    about = "" if generation.exact else "about "
    return (
        f"[{about}{generation.thinking_tokens} thinking tokens, {generation.waits} waits, {ended}; "
        f"{generation.answer_tokens} answer tokens; {generation.seconds:.1f} s]"
    )


class StreamedText:
    """Shows a request while it is decoded: thinking and forced text on one stream, the answer on the other.

    Forced text is coloured on a terminal and in square brackets elsewhere. Blank space around the answer is
    dropped, so that a pipe gets the answer alone.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], thinking: TextIO, answer: TextIO) -> None:
        self._text, self._thinking, self._answer = SpanText(decode), thinking, answer
        self._colour = thinking.isatty() and not os.environ.get("NO_COLOR")
        self._blank = ""  # blank space in the answer that is shown when a word follows
        self._answered = False

    def update(self, forcing: Forcing, *, ended: bool = False) -> None:
        """Show what has been decoded since the last call."""
        for piece in self._text.new(forcing.spans, ended=ended):
            self._show(*piece)

    def end(self, forcing: Forcing) -> None:
        """Show the rest and end the last line of both streams."""
        self.update(forcing, ended=True)
        print(file=self._answer if self._answered else self._thinking, flush=True)

    def _show(self, text: str, phase: Phase, by: Owner) -> None:
        if phase == "answer":
            self._show_answer(text)
            return
        text = visible(text)
        if by == "forced":
            text = f"{FORCED}{text}{PLAIN}" if self._colour else f"[{text}]"
        print(text, end="", file=self._thinking, flush=True)

    def _show_answer(self, text: str) -> None:
        text = self._blank + text
        if not self._answered:
            text = text.lstrip()
            if text:
                print(file=self._thinking, flush=True)  # the answer begins on a new line
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        if kept:
            self._answered = True
            print(visible(kept), end="", file=self._answer, flush=True)
