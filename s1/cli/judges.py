"""Models that verbs ask through a call cache: teacher, classifier, judge."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from s1.cli.options import open_engine
from s1.cli.progress import ProgressBar
from s1.clients.call_cache import CallCache
from s1.clients.chat import ApiSettings
from s1.clients.map_calls import Caller
from s1.data.answer_judge import ask_judge
from s1.data.attempts import EngineCaller
from s1.engines.model_id import model_id
from s1.errors import BadConfig
from s1.grading.judge import Attempt, Judge
from s1.types import Sampling

JUDGE_TOKENS = 4096
"""Enough for a judge that thinks before it explains."""
JUDGE_TRIES = 5
"""Someone is waiting for the result: an unreachable server is reported within a minute."""


def add_judge(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--judge", metavar="NAME",
        help="model that judges answers: a name on the server of --url, NAME@URL[@KEY_ENV], or an engine spec",
    )  # fmt: skip
    parser.add_argument(
        "--url", help="OpenAI-compatible server of the judge; its key is taken from OPENAI_API_KEY"
    )


@contextmanager
def open_judge(spec: str | None, url: str | None, folder: Path) -> Iterator[Judge | None]:
    """A judge whose verdicts are kept in the run folder (journal.jsonl) and never asked for twice.

    Replies are greedy and short: the judge explains and says Yes or No.
    """
    if spec is None:
        if url:
            raise BadConfig("--url names the server of a judge, but there is no judge.", "Add --judge NAME.")
        yield None
        return
    settings = ApiSettings(temperature=0.0, max_tokens=JUDGE_TOKENS, tries=JUDGE_TRIES)
    with open_caller(spec, url, settings) as caller, CallCache(folder / "journal.jsonl") as cache:

        def judge(attempts: Mapping[str, Attempt]) -> Mapping[str, bool]:
            with ProgressBar("judge") as bar:
                return asyncio.run(ask_judge(attempts, caller, cache, progress=bar.show_calls))

        yield judge


@contextmanager
def open_caller(spec: str, url: str | None, settings: ApiSettings) -> Iterator[Caller]:
    """A model to ask: NAME on the server of `url`, NAME@URL[@KEY_ENV] on another, otherwise an engine spec."""
    name, at, other = spec.partition("@http")
    if at:
        # The key of --url goes to that server only; another server gets the key that is named for it, or none.
        address, _, key_env = ("http" + other).partition("@")
        yield replace(settings, model=name, url=address, key_env=key_env)
        return
    if url:
        yield replace(settings, model=spec, url=url)
        return
    top_p = 1.0 if settings.top_p is None else settings.top_p
    sampling = Sampling(settings.temperature or 0.0, top_p, seed=0)
    engine = open_engine(spec)
    try:
        yield EngineCaller(
            engine,
            spec.rstrip("/"),
            sampling,
            settings.max_tokens,
            settings.concurrency,
            model_id(engine.name),
        )
    finally:
        asyncio.run(engine.close())
