"""Progress on stderr: a live bar on a terminal, one plain line a minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from s1.terminal import visible

if TYPE_CHECKING:
    from rich.progress import Progress

    from s1.clients import map_calls
    from s1.evals import run

PLAIN_SECONDS = 60.0
"""Time between two plain lines."""
RATE_SECONDS = 120.0
"""Rate and time left are computed from the last RATE_SECONDS."""


class ProgressBar:
    """How far a job is: done of total, rate, time left, and a detail. Appears with the first `update`.

    Use it as a context manager, so that the terminal is restored when the job fails.
    """

    def __init__(self, name: str) -> None:
        self._bar: Progress | None = None
        self.restart(name)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def restart(self, name: str) -> None:
        """Begin the next job."""
        self.close()
        self._name = visible(name)
        self._began = self._printed = time.monotonic()

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` items are done."""
        bar = self._bar = self._bar or self._open(done, total)
        task = bar.tasks[0]
        bar.update(task.id, completed=done, total=total, detail=visible(detail))
        bar.update(task.id, timing=self._timing())
        if done >= total:
            self.close()
        elif bar.disable and time.monotonic() - self._printed >= PLAIN_SECONDS:
            self._print()

    def close(self) -> None:
        """Leave the bar as it is, or print the last plain line."""
        if self._bar is None:
            return
        if self._bar.disable:
            self._print()
        else:
            self._bar.stop()
        self._bar = None

    def show_run(self, state: run.RunProgress) -> None:
        """Progress of an evaluation."""
        rate = state.tokens / max(time.monotonic() - self._began, 1e-9)
        failed = f", {state.errors} failed" if state.errors else ""
        self.update(state.done, state.total, f"{rate:,.0f} tokens/s{failed}")

    def show_calls(self, state: map_calls.Progress) -> None:
        """Progress of calls to models."""
        cost = f", {state.usd:.2f} dollars" if state.usd else ""
        self.update(state.done, state.total, f"{state.tokens:,} tokens{cost}")

    def show_training(self, step: int, steps: int, loss: float | None, detail: str = "") -> None:
        """Progress of training."""
        self.update(
            step, steps, ", ".join(filter(None, ["" if loss is None else f"loss {loss:.3f}", detail]))
        )

    def _open(self, done: int, total: int) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[timing]}  {task.fields[detail]}", markup=False),
        )
        bar = Progress(*columns, console=console, disable=not console.is_interactive,
                       redirect_stdout=False, get_time=time.monotonic, speed_estimate_period=RATE_SECONDS)  # fmt: skip
        bar.add_task(self._name, completed=done, total=total, timing="", detail="")
        bar.start()
        return bar

    def _timing(self) -> str:
        """Rate and time left, or how long the job took."""
        assert self._bar is not None
        task = self._bar.tasks[0]
        if task.finished:
            return duration(time.monotonic() - self._began)
        if not task.speed or task.time_remaining is None:
            return ""
        rate = f"{task.speed:.1f}/s" if task.speed >= 1 else f"{duration(1 / task.speed)} each"
        return f"{rate}, {duration(task.time_remaining)} left"

    def _print(self) -> None:
        assert self._bar is not None
        task = self._bar.tasks[0]
        parts = (f"{task.completed:.0f}/{task.total:.0f}", task.fields["timing"], task.fields["detail"])
        print(visible(f"{self._name}: {', '.join(filter(None, parts))}"), file=sys.stderr, flush=True)
        self._printed = time.monotonic()


def duration(seconds: float) -> str:
    """A time such as "4.2 s", "55 s", "3 min" or "2 h 05 min"."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
