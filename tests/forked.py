"""`s1` commands in processes forked from one that has imported the libraries.

A start takes a tenth of a second, where a new interpreter imports for six. The process is otherwise that of a user:
the command's own `main`, its own output and exit code, and SIGKILL ends it at once. It leads a process group.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from subprocess import CompletedProcess

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["forked_imports"])


def start(arguments: list[str], folder: Path, out: Path, err: Path) -> ForkServerProcess:
    """Start `s1 ARGUMENTS` in `folder`, with its output in two files."""
    process = FORKS.Process(target=_command, args=(arguments, folder, out, err))
    process.start()
    return process


def s1(*arguments: object, folder: Path) -> CompletedProcess[str]:
    """`s1 ARGUMENTS` to its end."""
    words = [str(word) for word in arguments]
    with tempfile.TemporaryDirectory() as temporary:
        out, err = Path(temporary) / "out", Path(temporary) / "err"
        process = start(words, folder, out, err)
        process.join(1000)
        assert process.exitcode is not None, f"{words} did not end"
        return CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def _command(arguments: list[str], folder: Path, out: Path, err: Path) -> None:
    os.setsid()
    os.chdir(folder)
    for file, number in ((out, 1), (err, 2)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    from s1.cli import main

    sys.exit(main(arguments))
