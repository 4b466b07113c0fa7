"""Runs one request: the state machine of `budget.py` asks, an engine decodes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing

from s1.budget import Forcing
from s1.errors import EngineFailure
from s1.types import Engine, Generation


async def drive(
    forcing: Forcing,
    engine: Engine,
    question_id: str = "",
    sample: int = 0,
    watch: Callable[[Forcing], None] = lambda forcing: None,
) -> Generation:
    """Run one request to its end. An EngineFailure is recorded in the generation's `error`, not raised.

    `watch` is called after new tokens, forced ones included, for example to show them. An engine over a server
    with s1's plug-in sends one request for all of it.
    """
    began, first, error, one = time.perf_counter(), None, None, None
    try:
        in_one = None if forcing.by_rounds or forcing.thinking else getattr(engine, "in_one_request", None)
        if in_one is not None and forcing.phase == "thinking":
            one = await in_one(forcing.encoded, forcing.sampling, forcing.limit)
        while (request := forcing.ask()) is not None:
            watch(forcing)
            finished = False
            async with aclosing((one or engine).stream(request)) as chunks:
                async for chunk in chunks:
                    if first is None and chunk.ids:
                        first = time.perf_counter() - began
                    finished = not forcing.feed(chunk)
                    watch(forcing)
                    if finished:
                        break
            if not finished:
                raise EngineFailure("The engine ended a continuation without a finish.")
    except EngineFailure as failure:
        error = str(failure)
    finally:
        if one is not None:
            await one.close()
    return forcing.result(question_id, sample, time.perf_counter() - began, first, error)
