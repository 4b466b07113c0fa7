"""Python programs, `s1` above all, in processes forked from one that has imported the libraries.

A start takes a tenth of a second, where a new interpreter imports for six. The process is otherwise that of a user:
the program's own `main`, its own output and exit code, and SIGKILL ends it at once. It leads a process group, has the
environment that the test has at that moment, and does not ask the Hub.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import sys
import tempfile
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["forked_imports"])


def start_python(
    words: Sequence[str], folder: Path, out: Path, err: Path, file_bytes: int | None = None
) -> ForkServerProcess:
    """Start `python WORDS`, which begin with a file or with -m and a module, in `folder`.

    Its output goes to two files. No file that it writes may be larger than `file_bytes`.
    """
    process = FORKS.Process(
        target=_program, args=(list(words), folder, out, err, file_bytes, dict(os.environ))
    )
    process.start()
    return process


def python(words: Sequence[str], folder: Path, file_bytes: int | None = None) -> CompletedProcess[str]:
    """`python WORDS` to its end."""
    with tempfile.TemporaryDirectory() as temporary:
        out, err = Path(temporary) / "out", Path(temporary) / "err"
        process = start_python(words, folder, out, err, file_bytes)
        process.join(1000)
        assert process.exitcode is not None, f"{words} did not end"
        return CompletedProcess(list(words), process.exitcode, out.read_text(), err.read_text())


def start(words: Sequence[str], folder: Path, out: Path, err: Path) -> ForkServerProcess:
    """Start `s1 WORDS`."""
    return start_python(["-m", "s1", *words], folder, out, err)


def s1(*words: object, folder: Path, file_bytes: int | None = None) -> CompletedProcess[str]:
    """`s1 WORDS` to its end."""
    return python(["-m", "s1", *map(str, words)], folder, file_bytes)


def _program(
    words: list[str],
    folder: Path,
    out: Path,
    err: Path,
    file_bytes: int | None,
    environment: dict[str, str],
) -> None:
    os.setsid()
    os.chdir(folder)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.update(environment)
    paths = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [path for path in paths if path and path not in sys.path]
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")
