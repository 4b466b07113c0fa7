"""Models that are asked through a journal: teacher, classifier, judge."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from s1.clients.chat import ApiSettings
    from s1.clients.map_calls import Caller, Progress, Watch
    from s1.grading.judge import Attempt, Judge


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
    import asyncio
    from dataclasses import replace

    from s1.clients.call_cache import CallCache
    from s1.clients.chat import ApiSettings
    from s1.data.answer_judge import ask_judge
    from s1.data.attempts import EngineCaller
    from s1.errors import BadConfig

    if spec is None:
        if url:
            raise BadConfig("--url is the server of a judge, and none was named.", "Add --judge NAME.")
        yield None
        return
    settings = ApiSettings(temperature=0.0, max_tokens=JUDGE_TOKENS, tries=JUDGE_TRIES)
    caller = open_caller(spec, url, replace(settings, url=url) if url else settings)
    try:
        with CallCache(folder / "journal.jsonl") as journal:

            def judge(attempts: Mapping[str, Attempt]) -> Mapping[str, bool]:
                return asyncio.run(ask_judge(attempts, caller, journal, progress=_shown("judge")))

            yield judge
    finally:
        if isinstance(caller, EngineCaller):
            asyncio.run(caller.engine.close())


JUDGE_TOKENS = 4096
"""Room for a judge that thinks before it explains."""
JUDGE_TRIES = 5
"""Someone waits for this listing: a server that does not answer is told of within half a minute."""


def _shown(name: str) -> Watch:
    from s1.cli.common import Line

    line = Line()

    def show(p: Progress) -> None:
        line.show(f"{name}: {p.done}/{p.total}  {p.tokens:,} tokens", final=p.done == p.total)

    return show


def open_caller(spec: str, url: str | None, settings: ApiSettings) -> Caller:
    """A model to ask: NAME on the server of `url`, NAME@URL[@KEY_ENV] on another, or else an engine spec."""
    from dataclasses import replace

    from s1.cli.common import open_engine
    from s1.data.attempts import EngineCaller
    from s1.types import Sampling

    name, at, other = spec.partition("@http")
    if at:
        # The key of --url goes to that server only; another server gets one where it is named.
        address, _, key_env = ("http" + other).partition("@")
        return replace(settings, model=name, url=address, key_env=key_env)
    if url:
        return replace(settings, model=spec)
    sampling = Sampling(
        settings.temperature or 0.0, 1.0 if settings.top_p is None else settings.top_p, seed=0
    )
    return EngineCaller(
        open_engine(spec), spec.rstrip("/"), sampling, settings.max_tokens, settings.concurrency
    )
