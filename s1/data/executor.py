"""Where the parts of a pool are processed: in this process, in processes of this machine, or on a Ray cluster.

An executor maps a pure function over items and returns the results in order, so the output does not depend on the
executor. On Ray, a Ray Data pipeline has one block for each item: Ray decides how many run at once, and reruns the
items of a node that died elsewhere. Texts do not pass through it; a block holds the place of a part and what the
stage found.
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
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

from s1.errors import BadConfig, Interrupted, MissingExtra, S1Error, first_line

T = TypeVar("T")
R = TypeVar("R")
ExecutorName = Literal["local", "ray"]
CONNECT_SECONDS = 10


class Executor(Protocol):
    """Maps a function over items; results come in order. An exception of the function is raised here.

    The built-in `map` is one: one item after the other, while Polars' own threads share the work.
    """

    def __call__(self, function: Callable[[T], R], items: Sequence[T], /) -> Iterator[R]: ...


@contextmanager
def open_executor(
    name: ExecutorName = "local", *, workers: int | None = None, address: str | None = None
) -> Iterator[Executor]:
    """An executor for the duration of a `with` block.

    Local: `workers` processes, by default one for each processor; with 1 the work is done in this process. A
    script that uses more than 1 must guard its start with `if __name__ == "__main__":`. Ray: the cluster at
    `address` (or RAY_ADDRESS), or one started on this machine. Every node must have s1 installed and see the pool
    and the work folder under the same paths. Raises MissingExtra without ray.
    """
    if name == "ray":
        if workers is not None:
            raise BadConfig(
                "The Ray executor takes no workers.", "Leave them out: Ray uses the whole cluster."
            )
        yield from _on_ray(address)
        return
    if address is not None:
        raise BadConfig("Only the Ray executor takes an address.", "Add --executor ray.")
    count = workers if workers is not None else processors()
    if count < 1:
        raise BadConfig(f"Workers: {count}.", "Use at least 1.")
    if count == 1:
        yield map
        return
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Polars' threads
    with ProcessPoolExecutor(count, context, initializer=_start_worker) as pool:

        def run(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
            try:
                yield from (pool.map if len(items) > 1 else map)(function, items)
            except BrokenProcessPool:
                raise Interrupted(
                    "A worker process was killed, perhaps because memory ran out.",
                    "Use fewer --workers, then rerun the command to resume.",
                ) from None

        try:
            yield run
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
            _check_connection(address)
            ray.init(address, log_to_driver=False, include_dashboard=False if not address else None)
        except (OSError, ValueError, RuntimeError) as error:
            raise S1Error(
                f"No Ray cluster at {address}: {error}.",
                "Check --ray-address, or leave it out to start one on this machine.",
            ) from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    def run(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
        if not items:
            return
        blocks = [{"item": pickle.dumps(item)} for item in items]
        data = ray.data.from_items(blocks, override_num_blocks=len(blocks))
        data.context.execution_options.preserve_order = True
        data.context.enable_progress_bars = False
        try:
            for row in data.map(partial(_on_row, function)).iter_rows():
                result, error = pickle.loads(row["found"])
                if error is not None:
                    raise error
                yield result
        except ray.exceptions.UserCodeException:
            raise
        except ray.exceptions.RayError as error:
            raise Interrupted(f"The Ray cluster failed: {first_line(error)}.") from None

    try:
        yield run
    finally:
        if started:
            ray.shutdown()


def _on_row(function: Callable[[T], R], row: dict[str, Any]) -> dict[str, bytes]:
    # A user error is returned as a value: Ray Data would log it with its own stack trace.
    try:
        return {"found": pickle.dumps((function(pickle.loads(row["item"])), None))}
    except S1Error as error:
        return {"found": pickle.dumps((None, error))}


def _check_connection(address: str | None) -> None:
    """Raises OSError when nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def _start_worker() -> None:
    # Read when Polars is imported: one thread for each process.
    os.environ["POLARS_MAX_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Otherwise a worker would wait forever for work from a parent that was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
