"""Symbolic comparison in a process of its own, which can be killed.

sympy can spend hours or all memory on an expression of ten characters, and no thread can stop it.
So one child process does the work: a JSON line in, a JSON line out. It is started at the first use,
ended when it passes its time limit, started again when next needed, and closed at exit. It ends by
itself when the parent dies.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, NamedTuple

from s1.errors import MissingExtra, S1Error

STARTUP_SECONDS = 120.0
PATIENCE = 20.0
"""Limits are on processor time, so that a busy machine does not turn right answers into wrong ones.
This many times the limit on the clock is the end all the same."""
MEMORY_BYTES = 4 << 30
"""Address space of the child, where the system can limit it."""


class Reply(NamedTuple):
    """What the child found (None: the time or the memory did not suffice), and its processor seconds."""

    equal: bool | None
    seconds: float


class Worker:
    """One child and the lock that guards it. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._owner = os.getpid()

    def equal(self, gold: str, answer: str, seconds: float) -> Reply:
        """Whether two LaTeX expressions are equal, found within `seconds` of the child's processor time.

        The system itself ends the child at its limit, in whatever it is doing; on the clock it may take
        PATIENCE times as long. Raises MissingExtra without math-verify.
        """
        patience = seconds * (PATIENCE if hasattr(signal, "setitimer") else 1)
        with self._lock:
            process = self._ready()
            assert process.stdin is not None
            try:
                process.stdin.write(json.dumps({"gold": gold, "answer": answer, "seconds": seconds}) + "\n")
                process.stdin.flush()
                line = self._lines.get(timeout=patience)
            except (queue.Empty, OSError):
                line = None
            if line is None:
                self._stop()
                return Reply(None, seconds)
            found = json.loads(line)
            return Reply(bool(found["equal"]), float(found["seconds"]))

    def close(self) -> None:
        """Ends the child. The next call starts another."""
        with self._lock:
            self._stop()

    def _ready(self) -> subprocess.Popen[str]:
        if self._owner != os.getpid():  # a forked copy must not share its parent's pipes
            self._process, self._owner = None, os.getpid()
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        self._lines = queue.Queue()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "s1.grading.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": path},
        )
        threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True).start()
        try:
            line = self._lines.get(timeout=STARTUP_SECONDS)
        except queue.Empty:
            line = None
        state = json.loads(line) if line else {}
        if state.get("ready"):
            return self._process
        self._stop()
        if state.get("missing"):
            raise MissingExtra(state["missing"], "grading")
        raise S1Error(
            "The process that compares answers did not start.",
            "Run `python -m s1.grading.worker` to see why.",
        )

    def _stop(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was still buffered for a dead child
                    pipe.close()
        self._process = None


def _pump(pipe: IO[str], lines: queue.Queue[str | None]) -> None:
    with contextlib.suppress(ValueError):  # closed by _stop
        for line in pipe:
            lines.put(line)
    lines.put(None)


WORKER = Worker()
atexit.register(WORKER.close)


def main() -> None:
    """The child: reads questions from stdin until it closes."""
    import faulthandler
    import logging

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing else may write on the channel

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        import math_verify  # noqa: F401
    except ImportError:
        say({"missing": "math-verify"})
        return
    logging.disable(logging.CRITICAL)
    _limit_memory()
    say({"ready": True})
    for line in sys.stdin:
        job = json.loads(line)
        began = time.process_time()
        _limit_seconds(job["seconds"])
        # Should the parent die meanwhile, or the system have no such timer, this ends the child.
        faulthandler.dump_traceback_later(PATIENCE * job["seconds"] + 5, exit=True)
        try:
            equal = symbolic_equal(job["gold"], job["answer"])
        except (Exception, RecursionError, MemoryError):  # a parser may raise anything; unequal, then
            equal = False
        faulthandler.cancel_dump_traceback_later()
        _limit_seconds(0)
        say({"equal": equal, "seconds": time.process_time() - began})


def _limit_seconds(seconds: float) -> None:
    """Processor seconds after which the system ends this process; 0 for no limit."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # not a POSIX system: the time limit alone has to do
        return
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def symbolic_equal(gold: str, answer: str) -> bool:
    """Equality of two LaTeX expressions by math-verify. Slow and unbounded: run it in the worker only."""
    from math_verify import LatexExtractionConfig, parse, verify

    config = [LatexExtractionConfig()]
    parsed = [
        parse(f"${text}$", config, fallback_mode="no_fallback", parsing_timeout=None)
        for text in (gold, answer)
    ]
    if not all(parsed):
        return False
    if verify(*parsed, timeout_seconds=None, allow_set_relation_comp=True):
        return _close(parsed[0][0], parsed[1][0])
    left, right = parsed[0][0], parsed[1][0]
    return (
        _equal_with_imaginary_unit(left, right)
        or _equal_where_positive(left, right)
        or _same_region(left, right)
    )


def _equal_with_imaginary_unit(gold: Any, answer: Any) -> bool:
    """Equality once the letter i, which the parser takes for a variable, is the imaginary unit."""
    from sympy import Expr, I, Symbol, simplify

    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return False
    letters = {s for s in gold.free_symbols | answer.free_symbols if s.name == "i"}
    if not letters:
        return False
    pairs = {letter: I for letter in letters if isinstance(letter, Symbol)}
    difference = (gold - answer).subs(pairs).doit()
    if not difference.free_symbols:
        return bool(abs(difference.evalf(40)) < 1e-30)
    return bool(simplify(difference) == 0)


def _equal_where_positive(gold: Any, answer: Any) -> bool:
    """Equality of roots and logarithms of positive letters, as 1/sqrt(n) and sqrt(1/n); none with | |."""
    from sympy import Abs, Expr, Pow, Symbol, log, simplify

    if not (isinstance(gold, Expr) and isinstance(answer, Expr)) or gold.has(Abs) or answer.has(Abs):
        return False
    letters = gold.free_symbols
    if letters != answer.free_symbols or not letters:
        return False
    roots = any(not power.exp.is_integer for side in (gold, answer) for power in side.atoms(Pow))
    if not roots and not gold.has(log):
        return False
    pairs = {letter: Symbol(letter.name, positive=True) for letter in letters if isinstance(letter, Symbol)}
    return bool(simplify((gold - answer).subs(pairs)) == 0)


def _same_region(gold: Any, answer: Any) -> bool:
    """Whether two inequalities in one letter hold for the same numbers, as 2x>6 and x>3."""
    from sympy.core.relational import Relational

    if not (isinstance(gold, Relational) and isinstance(answer, Relational)):
        return False
    if len(gold.free_symbols) != 1 or gold.free_symbols != answer.free_symbols:
        return False
    return bool(gold.as_set() == answer.as_set())


def _close(gold: Any, answer: Any) -> bool:
    """False for numbers that only rounding to six places made equal, as 0 and 10^-8."""
    if not (getattr(gold, "is_number", False) and getattr(answer, "is_number", False)):
        return True
    difference = abs((gold - answer).evalf(30))
    size = max(abs(gold.evalf(30)), abs(answer.evalf(30)))
    return not (difference.is_number and size.is_finite) or bool(difference <= size * 1e-6)


if __name__ == "__main__":
    main()
