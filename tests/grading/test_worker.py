"""The process that compares expressions can always be stopped, and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s1.errors import MissingExtra
from s1.grading import compare
from s1.grading.worker import PATIENCE, Worker

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def test_equal_expressions_are_found_equal(worker: Worker) -> None:
    assert worker.equal("x+1", "1+x", 5.0).equal is True
    assert worker.equal("x+1", "x+2", 5.0).equal is False


def test_a_monstrous_expression_is_stopped_and_the_next_is_answered(worker: Worker) -> None:
    worker.equal("x", "x", 5.0)
    before = time.monotonic()
    assert worker.equal("9^{9^{9^{9}}}", "1", 0.5).equal is None
    assert time.monotonic() - before < 0.5 * PATIENCE + 30  # which it may need on a busy machine
    assert worker.equal("x+2", "2+x", 5.0).equal is True


def test_a_child_that_is_killed_is_started_again(worker: Worker) -> None:
    worker.equal("x", "x", 5.0)
    assert worker._process is not None
    worker._process.kill()
    worker._process.wait()
    assert worker.equal("x+3", "3+x", 5.0).equal is True


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_child_that_gets_no_processor_is_waited_for(worker: Worker) -> None:
    worker.equal("x", "x", 5.0)
    assert worker._process is not None
    child = worker._process.pid
    os.kill(child, signal.SIGSTOP)
    threading.Timer(1.0, os.kill, (child, signal.SIGCONT)).start()
    reply = worker.equal("x+4", "4+x", 0.5)
    assert reply.equal is True and reply.seconds < 0.5
    assert worker._process.pid == child


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


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_process_starts_its_own_child() -> None:
    code = (
        "import os\n"
        "from s1.grading import equivalent\n"
        "from s1.grading.worker import WORKER\n"
        "assert equivalent('x+1', '1+x')\n"
        "first = WORKER._process.pid\n"
        "if (child := os.fork()) == 0:\n"
        "    ok = equivalent('x+2', '2+x') and WORKER._process.pid != first\n"
        "    WORKER.close()\n"
        "    os._exit(0 if ok else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert equivalent('x+3', '3+x') and WORKER._process.pid == first\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_plain_answers_load_no_algebra_and_start_no_process() -> None:
    code = (
        "import sys\n"
        "from s1.grading import equivalent\n"
        "from s1.grading.worker import WORKER\n"
        "assert equivalent('023', '23') and equivalent('1/2', '0.5') and not equivalent('(1,2)', '(2,1)')\n"
        "assert WORKER._process is None\n"
        "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "math_verify.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    fresh = Worker()
    with pytest.raises(MissingExtra, match="math-verify"):
        fresh.equal("x", "x", 1.0)


def test_running_out_of_time_is_named_in_the_verdict() -> None:
    assert compare("9^{9^{9^{9}}}", "9^{9^{9}}", timeout=0.3) == (False, "timeout")
