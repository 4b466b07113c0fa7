"""s1: simple test-time scaling. Curate, train, force the budget, measure (arXiv 2501.19393)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from s1.policy import BudgetPolicy
    from s1.types import Engine, Generation, Sampling

from s1.version import VERSION

__version__ = VERSION

_PUBLIC = {
    "BudgetPolicy": "s1.policy",
    "Forcing": "s1.budget",
    "drive": "s1.drive",
    "FORMATS": "s1.formats",
    "ThinkingFormat": "s1.formats",
    "detect": "s1.formats",
    "load_engine": "s1.engines",
    "budget_processor": "s1.logits_processor",
    "Generation": "s1.types",
    "Question": "s1.types",
    "Sampling": "s1.types",
    "Trace": "s1.types",
    "S1Error": "s1.errors",
}
__all__ = [*_PUBLIC, "think"]

T = TypeVar("T")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 's1' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def think(
    question: str,
    model: str | Engine,
    *,
    max_thinking: int | None = None,
    waits: int = 0,
    policy: BudgetPolicy | None = None,
    sampling: Sampling | None = None,
    format: str | None = None,
    system: str | None = None,
) -> Generation:
    """Think about one question and answer it. Synchronous, and also works in a notebook.

    `model` is an engine spec such as a checkpoint folder, loaded for this call only, or an engine from
    `load_engine`, which stays open. Give either `policy` or `max_thinking` and `waits`, which are tokens and
    a count. Raises S1Error for anything the caller can fix.
    """
    from s1.budget import Forcing
    from s1.drive import drive
    from s1.engines import load_engine
    from s1.errors import BadConfig
    from s1.formats import choose_format
    from s1.policy import BudgetPolicy
    from s1.prompt import encode_prompt
    from s1.types import Sampling

    if policy is not None and (max_thinking is not None or waits):
        raise BadConfig("Both a policy and max_thinking or waits were given.", "Set them in the policy.")
    chosen = policy or BudgetPolicy(max_thinking=max_thinking, waits=waits)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": question})

    async def run() -> Generation:
        engine = load_engine(model) if isinstance(model, str) else model
        try:
            encoded = encode_prompt(engine, choose_format(engine, format), chosen, engine.render(messages))
            return await drive(Forcing(encoded, sampling or Sampling()), engine)
        finally:
            if isinstance(model, str):
                await engine.close()

    return _wait_for(run())


def _wait_for(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`, even if an event loop already runs in this thread, as in a notebook.

    An interrupt cancels the coroutine, so that the engine stops decoding.
    """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = []

    async def cancellable() -> T:
        task = asyncio.create_task(coroutine)
        running.append((asyncio.get_running_loop(), task))
        return await task

    with ThreadPoolExecutor(1) as thread:
        done = thread.submit(lambda: asyncio.run(cancellable()))
        try:
            return done.result()
        except BaseException:
            if running and not done.done():
                loop, task = running[0]
                loop.call_soon_threadsafe(task.cancel)
            raise
