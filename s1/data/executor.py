"""Where the pieces of a pool are worked on: here, in processes of this machine, or on a Ray cluster.

An executor maps a pure function over pieces and gives the results in the order of the pieces, so that what
comes out depends on none of them. On Ray, a Ray Data pipeline has one block for each piece: it says how many
run at once, and runs the pieces of a node that died again elsewhere. The texts do not pass through it; a
block holds a piece's place and what the stage found.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from s1.errors import BadConfig, MissingExtra, S1Error

T = TypeVar("T")
R = TypeVar("R")
ExecutorName = Literal["local", "ray"]
KNOCK_SECONDS = 10


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
        if not items:
            return
        pieces = [{"piece": pickle.dumps(item)} for item in items]
        data = self.ray.data.from_items(pieces, override_num_blocks=len(pieces))
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False
        try:
            done = data.map(partial(_on_row, function))
            for row in done.iter_rows():
                result, error = pickle.loads(row["found"])
                if error is not None:
                    raise error
                yield result
        except self.ray.exceptions.UserCodeException:
            raise
        except self.ray.exceptions.RayError as error:
            raise S1Error(
                f"The Ray cluster failed: {str(error).splitlines()[0]}",
                "Mend the cluster; the same command goes on from here.",
            ) from None


def _on_row(function: Callable[[T], R], row: dict[str, Any]) -> dict[str, bytes]:
    # An error for the user travels as a value: Ray Data would log it with its own stack.
    try:
        return {"found": pickle.dumps((function(pickle.loads(row["piece"])), None))}
    except S1Error as error:
        return {"found": pickle.dumps((None, error))}


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
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Polars' threads
    with ProcessPoolExecutor(count, context, initializer=_start_worker) as pool:
        try:
            yield _Processes(pool)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _on_ray(address: str | None) -> Iterator[Executor]:
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray", "ray") from error
    started = not ray.is_initialized()
    if started:
        address = address or os.environ.get("RAY_ADDRESS")
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, include_dashboard=False if not address else None)
        except (OSError, ValueError, RuntimeError) as error:
            raise S1Error(
                f"No Ray cluster answers at {address}: {error}.",
                "Check --ray-address, or leave it out to start one on this machine.",
            ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield _Ray(ray)
    finally:
        if started:
            ray.shutdown()


def _knock(address: str | None) -> None:
    """Raises OSError where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS).close()


def _start_worker() -> None:
    # Read when Polars is imported; the processes are the threads here.
    os.environ["POLARS_MAX_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's workers wait for ever for work from a process that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
