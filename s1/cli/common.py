"""What several verbs share: the default model, engine and benchmark by name, progress, the table."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from s1.errors import BadInput

if TYPE_CHECKING:
    from s1.evals.benchmarks import Benchmark
    from s1.evals.run import RunProgress
    from s1.types import Engine

DEMO = Path("runs/demo")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="checkpoint folder, Hub id or engine spec; default: what `s1 demo` trained"
    )
    parser.add_argument("--format", help="thinking format, where it cannot be detected")


def limit(text: str) -> int | None:
    """A thinking limit: a number of tokens, or auto (None) for what the context leaves."""
    if text == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of tokens nor auto") from None


def wait_string(text: str) -> tuple[str, ...]:
    """A wait string, or several in turn: "Wait,Hmm" is two, "Wait, let me see" one, "" adds no text."""
    return tuple(re.split(r",(?=\S)", text))


def default_model(named: str | None) -> str:
    """The named model, or the one that the demo trained."""
    if named:
        return named
    model = DEMO / "model"
    if not (model / "train.json").is_file():  # written last
        raise BadInput("No --model given, and no demo model here.", "Name a model, or run `s1 demo` first.")
    return str(model)


def open_engine(spec: str, **options: Any) -> Engine:
    from s1.engines import load_engine

    if spec.startswith("hf:") or Path(spec).is_dir():
        quiet()
        options.setdefault("max_batch", 256)
    return load_engine(spec, **options)


def open_benchmark(name: str, limit: int | None) -> Benchmark:
    """A benchmark by name or file."""
    from s1.evals.benchmarks import load_benchmark

    return load_benchmark(name, limit)


def quiet() -> None:
    """Silence the loading bars of libraries; our own line is the progress."""
    import os

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


class Line:
    """One line of progress on stderr: rewritten on a terminal, printed now and then elsewhere."""

    def __init__(self, every_seconds: float | None = None) -> None:
        self._live = sys.stderr.isatty()
        self._every = every_seconds or (0.2 if self._live else 10.0)
        self._last = 0.0
        self._width = 0

    def show(self, text: str, *, final: bool = False) -> None:
        now = time.monotonic()
        if not final and now - self._last < self._every:
            return
        self._last = now
        if self._live:
            print("\r" + text.ljust(self._width), end="\n" if final else "", file=sys.stderr, flush=True)
            self._width = len(text)
        else:
            print(text, file=sys.stderr, flush=True)


def run_progress(line: Line, name: str) -> Callable[[RunProgress], None]:
    """Progress of a run: done, accuracy so far with its interval, tokens per second, time left."""
    from s1.evals.intervals import wilson

    def show(p: RunProgress) -> None:
        seconds = max(time.perf_counter() - p.began, 1e-9)
        low, high = wilson(p.right, p.graded)
        left = seconds / p.graded * (p.total - p.done)
        line.show(
            f"{name}: {p.done}/{p.total}  right {100 * p.right / p.graded:.1f} % [{100 * low:.1f}, {100 * high:.1f}]  "
            f"{p.tokens / seconds:.0f} tok/s  {left:.0f} s left",
            final=p.done == p.total,
        )

    return show


def train_progress(line: Line, name: str) -> Callable[[int, int, float | None], None]:
    """Progress of a training run: step, last loss, time left."""
    began = time.monotonic()

    def show(step: int, steps: int, loss: float | None) -> None:
        left = (time.monotonic() - began) / step * (steps - step)
        told = "" if loss is None else f"  loss {loss:.3f}"
        line.show(f"{name}: step {step}/{steps}{told}  {left:.0f} s left", final=step == steps)

    return show
