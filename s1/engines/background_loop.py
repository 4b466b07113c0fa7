"""An event loop in its own thread, for libraries whose connections belong to one loop.

An engine may be used from several event loops, one after another or at once; an HTTP client or a vLLM engine
may not. So the client lives in this loop, and its streams are passed on to the caller's.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from s1.errors import EngineFailure

T = TypeVar("T")


class BackgroundLoop:
    """The loop. It starts at once and ends with `close` or with the process."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        return self.loop.is_closed()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and wait for it in this thread. An interrupt cancels it."""
        running = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    async def stream(self, make: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """The items of a generator that runs in the loop. Leaving the iteration closes the generator."""
        caller_loop = asyncio.get_running_loop()
        queue: asyncio.Queue[T | Exception] = asyncio.Queue()

        def put(item: T | Exception) -> None:
            try:
                caller_loop.call_soon_threadsafe(queue.put_nowait, item)
            except RuntimeError:  # the caller's loop was closed without leaving the stream
                task.cancel()

        async def pump() -> None:
            try:
                async with aclosing(make()) as items:
                    async for item in items:
                        put(item)
            except asyncio.CancelledError:  # by `close`, or because the caller left and no longer listens
                put(EngineFailure("The engine was closed in the middle of an answer."))
                raise
            except Exception as error:
                put(error)
            else:
                put(StopAsyncIteration())

        task = asyncio.run_coroutine_threadsafe(pump(), self.loop)
        try:
            while True:
                item = await queue.get()
                if isinstance(item, StopAsyncIteration):
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            task.cancel()

    async def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Cancel what is still running, run `last` in the loop, and end the thread. May be called twice."""
        if self.loop.is_closed():
            if last is not None:
                last.close()
            return

        async def end() -> None:
            others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            if last is not None:
                await last

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(end(), self.loop))
        await asyncio.get_running_loop().run_in_executor(None, self.stop)

    def stop(self) -> None:
        """End the loop and its thread at once."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
