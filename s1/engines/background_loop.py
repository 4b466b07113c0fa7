"""An event loop in a thread of its own, for libraries whose connections belong to one loop.

An engine may be used from several event loops, one after another or at once; a client of a server or a vLLM
engine may not. So it lives here, and its streams are carried over.
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
    """The loop. It starts at once and ends with `close`, or with the process."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait, in this thread, for a coroutine that runs in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    async def stream(self, make: Callable[[], AsyncGenerator[T, None]]) -> AsyncGenerator[T, None]:
        """What the generator yields there, here. Leaving early closes it there as well."""
        here = asyncio.get_running_loop()
        queue: asyncio.Queue[tuple[T | None, BaseException | None]] = asyncio.Queue()

        def put(item: T | None, error: BaseException | None = None) -> None:
            try:
                here.call_soon_threadsafe(queue.put_nowait, (item, error))
            except RuntimeError:  # the caller's loop was closed without leaving the stream
                task.cancel()

        async def pump() -> None:
            try:
                async with aclosing(make()) as items:
                    async for item in items:
                        put(item)
            except asyncio.CancelledError:  # by `close`, or because the caller left and hears nothing of this
                put(None, EngineFailure("The engine was closed in the middle of an answer."))
                raise
            except Exception as error:
                put(None, error)
            else:
                put(None, StopAsyncIteration())

        task = asyncio.run_coroutine_threadsafe(pump(), self.loop)
        try:
            while True:
                item, error = await queue.get()
                if isinstance(error, StopAsyncIteration):
                    return
                if error is not None:
                    raise error
                assert item is not None
                yield item
        finally:
            task.cancel()

    async def close(self, last: Coroutine[Any, Any, None] | None = None) -> None:
        """Cancel what still runs, run `last` in the loop, and end the thread. A second call does nothing."""
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
