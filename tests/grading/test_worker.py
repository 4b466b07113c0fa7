"""The process that compares expressions can always be stopped, and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from s1.errors import MissingExtra
from s1.grading import compare
from s1.grading.worker import Worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def children() -> Iterator[list[subprocess.Popen[str]]]:
    """Every process that is started, in order."""
    started: list[subprocess.Popen[str]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *arguments: object, **options: object) -> None:
            super().__init__(*arguments, **options)  # type: ignore[call-overload]
            started.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Recorded)
        yield started


@pytest.fixture(scope="module")
def worker(children: list[subprocess.Popen[str]]) -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_equal_expressions_are_found_equal(worker: Worker) -> None:
    assert worker.equal("x+1", "1+x", 5.0).equal is True
    assert worker.equal("x+1", "x+2", 5.0).equal is False


def test_a_monstrous_expression_is_stopped_and_the_next_is_answered(worker: Worker) -> None:
    worker.equal("x", "x", 5.0)
    assert worker.equal("9^{9^{9^{9}}}", "1", 0.5).equal is None
    assert worker.equal("x+2", "2+x", 5.0).equal is True


def test_a_child_that_is_killed_is_started_again(
    worker: Worker, children: list[subprocess.Popen[str]]
) -> None:
    worker.equal("x", "x", 5.0)
    children[-1].kill()
    children[-1].wait()
    assert worker.equal("x+3", "3+x", 5.0).equal is True


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_child_that_gets_no_processor_is_waited_for(
    worker: Worker, children: list[subprocess.Popen[str]]
) -> None:
    worker.equal("x", "x", 5.0)
    child, count = children[-1].pid, len(children)
    os.kill(child, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (child, signal.SIGCONT)).start()
    result = worker.equal("x+4", "4+x", 0.5)
    assert result.equal is True and result.seconds < 0.5
    assert len(children) == count


def test_many_threads_share_one_child(worker: Worker) -> None:
    found: list[bool | None] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(worker.equal(f"x+{i}", f"{i}+x", 5.0).equal))
        for i in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 12


RECORDED = """
import os, subprocess, sys
started = []
class Recorded(subprocess.Popen):
    def __init__(self, *arguments, **options):
        started.append(arguments)
        super().__init__(*arguments, **options)
subprocess.Popen = Recorded
from s1.grading import equivalent
"""


def run_recorded(code: str) -> None:
    """Runs `code` in a fresh interpreter, where `started` lists the processes that it starts."""
    command = [sys.executable, "-c", RECORDED + code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_starts_its_own_child() -> None:
    run_recorded(
        "from s1.grading.worker import WORKER\n"
        "assert equivalent('x+1', '1+x') and len(started) == 1\n"
        "if (child := os.fork()) == 0:\n"
        "    ok = equivalent('x+2', '2+x') and len(started) == 2\n"
        "    WORKER.close()\n"
        "    os._exit(0 if ok else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert equivalent('x+3', '3+x') and len(started) == 1\n"
    )


def test_plain_answers_load_no_algebra_and_start_no_process() -> None:
    run_recorded(
        "assert equivalent('023', '23') and equivalent('1/2', '0.5') and not equivalent('(1,2)', '(2,1)')\n"
        "assert not started\n"
        "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)\n"
    )


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "math_verify", None)
    fresh = Worker()
    with pytest.raises(MissingExtra, match="math-verify"):
        fresh.equal("x", "x", 1.0)


def test_running_out_of_time_is_named_in_the_verdict() -> None:
    assert compare(r"\sum_{k=1}^{99999} \sin(k x)", "7", timeout=0.3) == (False, "timeout")


def test_a_child_without_a_processor_is_tried_again_and_one_that_works_hard_is_not(
    worker: Worker, children: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.close()
    worker.equal("x", "x", 5.0)
    count = len(children)
    os.kill(children[-1].pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr("s1.grading.worker.WALL_SECONDS", 2.0)
        assert worker.equal("x+5", "5+x", 0.8).equal is True
    assert len(children) == count + 1
    assert worker.equal(r"\sum_{k=1}^{99999} \sin(k x)", "7", 0.4).equal is None
    assert len(children) == count + 1
