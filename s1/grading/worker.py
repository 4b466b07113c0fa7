"""A child process that compares expressions and can be killed.

sympy can spend hours, or all memory, on an expression of ten characters, and a thread cannot stop it.
So one child runs `symbolic.py`: a JSON line in, a JSON line out. It starts at the first comparison, ends when
it passes its limit of memory or processor time, starts again when next needed, and is closed at exit.

Processor time decides, so that a busy machine does not turn right answers into wrong ones. Wall-clock time is the
outer guard: a child that passes it is killed, and if it had hardly got the processor, the pair is tried once more.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

from s1.errors import S1Error, require

CHILD = Path(__file__).with_name("symbolic.py")
STARTUP_SECONDS = 120.0
WALL_SECONDS = 5.0
"""Longest wall-clock time of one comparison, where 2.5 times its processor seconds are not longer still."""


class SymbolicResult(NamedTuple):
    """Whether two expressions are equal (None: out of time or memory), and the processor seconds spent."""

    equal: bool | None
    seconds: float


class Worker:
    """One child and the lock that guards it. Safe to call from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = os.getpid()
        self._used = 0.0
        """Processor seconds of the child when it last replied."""

    def equal(self, gold: str, answer: str, seconds: float) -> SymbolicResult:
        """Compares two LaTeX expressions within `seconds` of the child's processor time.

        Raises MissingExtra without math-verify.
        """
        job = {"gold": gold, "answer": answer, "seconds": seconds}
        with self._lock:
            for _ in range(2):
                found = _read_reply(self._started(), max(WALL_SECONDS, 2.5 * seconds), job)
                if found and found["equal"] is not None:
                    self._used = found["used"]
                    return SymbolicResult(found["equal"], found["seconds"])
                status, used = self._stop()
                if found or status != -signal.SIGKILL or used > seconds / 4:
                    break
            return SymbolicResult(None, seconds)

    def close(self) -> None:
        """Ends the child. The next call starts another."""
        with self._lock:
            self._stop()

    def _started(self) -> subprocess.Popen[str]:
        if self._owner != os.getpid():  # a forked process must not share its parent's pipes
            self._process, self._owner = None, os.getpid()
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._stop()
        require("grading")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        state = _read_reply(self._process, STARTUP_SECONDS)
        if state.get("ready"):
            self._used = state["used"]
            return self._process
        self._stop()
        raise S1Error("The process that compares answers did not start.", f"Run `python {CHILD}` to see why.")

    def _stop(self) -> tuple[int, float]:
        """End the child, if there is one; returns its exit status and its processor seconds since its last reply."""
        if self._process is None:
            return 0, 0.0
        before = os.times()
        self._process.kill()
        status = self._process.wait()
        after = os.times()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # text still buffered for the dead child
                    pipe.close()
        self._process = None
        return status, sum(after[2:4]) - sum(before[2:4]) - self._used


def _read_reply(
    process: subprocess.Popen[str], seconds: float, job: dict[str, object] | None = None
) -> dict[str, Any]:
    """The child's next line, after sending it `job`; {} if it died, or was killed after `seconds`."""
    assert process.stdin is not None and process.stdout is not None
    killer = threading.Timer(seconds, process.kill)
    killer.daemon = True
    killer.start()
    try:
        if job is not None:
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
    except OSError:
        line = ""
    finally:
        killer.cancel()
    return dict(json.loads(line)) if line.endswith("\n") else {}


WORKER = Worker()
atexit.register(WORKER.close)
