"""Where the pieces of a pool are worked on: here, in processes of this machine, or on a Ray cluster.

An executor maps a pure function over pieces and gives the results in the order of the pieces, so that what
comes out depends on none of them. Ray runs plain tasks: its Data library would cut, move and write blocks that
the stages have on disk already. Tasks of a node that died are run again elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from s1.errors import BadConfig, MissingExtra, S1Error

T = TypeVar("T")
R = TypeVar("R")
ExecutorName = Literal["local", "ray"]
RAY_RETRIES = 20
"""How often a task is run again after its node or process died."""


class Executor(Protocol):
    """Maps a function over items; results come in order. An exception of the function is raised here."""

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]: ...


@dataclass(frozen=True, slots=True)
class InProcess:
    """One piece after the other in this process; Polars' own threads share the work."""

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        return map(function, items)


@dataclass(frozen=True, slots=True)
class _Processes:
    pool: Any

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        from concurrent.futures.process import BrokenProcessPool

        if len(items) < 2:
            yield from map(function, items)
            return
        try:
            yield from self.pool.map(function, items)
        except BrokenProcessPool:
            raise S1Error(
                "A worker process was killed, perhaps for want of memory.",
                "Use fewer with --workers; the same command goes on from here.",
            ) from None


@dataclass(frozen=True, slots=True)
class _Ray:
    ray: Any

    def map(self, function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        shared = self.ray.put(function)
        task = self.ray.remote(_call).options(max_retries=RAY_RETRIES)
        # Few at a time: what waits holds its arguments in the object store.
        waiting: list[Any] = []
        most = 4 * max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        for item in items:
            waiting.append(task.remote(shared, item))
            if len(waiting) >= most:
                yield self._result(waiting.pop(0))
        while waiting:
            yield self._result(waiting.pop(0))

    def _result(self, reference: Any) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, S1Error):
                raise error.cause from None
            raise
        except self.ray.exceptions.RayError as error:
            raise S1Error(
                f"The Ray cluster failed: {str(error).splitlines()[0]}",
                "Mend the cluster; the same command goes on from here.",
            ) from None


def _call(function: Callable[[T], R], item: T) -> R:
    return function(item)


@contextmanager
def open_executor(
    name: ExecutorName = "local", *, workers: int | None = None, address: str | None = None
) -> Iterator[Executor]:
    """An executor for the time of a `with` block.

    Local: `workers` processes, by default one for each processor; with 1 the work is done in this process.
    A script that asks for more than 1 must guard its start with `if __name__ == "__main__":`.
    Ray: the cluster at `address` (or RAY_ADDRESS), or one started on this machine. Every node must see the
    pool and the work folder under the same paths and have s1 installed. Raises MissingExtra without ray.
    """
    if name == "ray":
        if workers is not None:
            raise BadConfig("The Ray executor takes no workers.", "The size of the cluster decides.")
        yield from _on_ray(address)
        return
    if address is not None:
        raise BadConfig("An address is for the Ray executor.", "Name it with --executor ray.")
    count = workers if workers is not None else len(os.sched_getaffinity(0))
    if count < 1:
        raise BadConfig(f"Workers: {count}.", "Use at least 1.")
    if count == 1:
        yield InProcess()
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Polars' threads
    with ProcessPoolExecutor(count, context, initializer=_one_thread) as pool:
        try:
            yield _Processes(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _on_ray(address: str | None) -> Iterator[Executor]:
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(address, log_to_driver=False, include_dashboard=False if not address else None)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise S1Error(
                f"No Ray cluster answers at {address or os.environ.get('RAY_ADDRESS')}: {error}",
                "Check --ray-address, or leave it out to start one on this machine.",
            ) from None
    try:
        yield _Ray(ray)
    finally:
        if started:
            ray.shutdown()


def _one_thread() -> None:
    # Read when Polars is imported; the processes are the threads here.
    os.environ["POLARS_MAX_THREADS"] = "1"
