"""A real vLLM server with the plug-in found by its entry point, as after `pip install`."""

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
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

ENTRY = "s1.vllm_plugin.processor:VLLMBudgetProcessor"
START_SECONDS = 600


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process in which the entry point is installed, also where `pip install` is older."""
    if not any(e.value == ENTRY for e in entry_points(group="vllm.logits_processors")):
        info = folder / "s1_plugin-0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: s1-plugin\nVersion: 0\n")
        (info / "entry_points.txt").write_text(f"[vllm.logits_processors]\ns1 = {ENTRY}\n")
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join(map(str, (root, folder)))
    return {**os.environ, "PYTHONPATH": path}


@contextlib.contextmanager
def serve(model: Path, folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a vLLM server of our own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
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
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # its workers too, however it ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
