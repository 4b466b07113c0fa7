"""Two processes on a processor (gloo) train as one does, and a killed one ends the run, which then resumes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROWS = [
    {
        "id": f"q{n}",
        "question": f"solve {n} x",
        "thinking": " ".join(["x 0 : 1 no ."] * (1 + n % 7)),
        "attempt": "5",
    }
    for n in range(40)
]
TOLERANCE = 2e-5
"""Of a loss: the gradients of two processes are summed in another order."""


def command(folder: Path, name: str, *more: str) -> list[str]:
    words = ["train", str(folder / "rows.jsonl"), "--base", "petri", "--out", str(folder / name)]
    for setting in ("epochs=2", "batch=8", "device_batch=2", "bf16=false", "save_steps=2"):
        words += ["--set", setting]
    return [sys.executable, "-m", "s1", *words, *more]


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in json.loads((folder / "train.json").read_text())["log"]]


@pytest.mark.parametrize("more", [(), ("--set", "lora_rank=4")], ids=["full", "lora"])
def test_two_processes_have_the_losses_of_one_and_survive_a_kill(tmp_path, more, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    subprocess.run(command(tmp_path, "one", *more), check=True, capture_output=True, timeout=300)
    process = subprocess.Popen(
        command(tmp_path, "two", "--gpus", "2", *more),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while (
        not list(tmp_path.glob("two/checkpoints/checkpoint-*/trainer_state.json")) and process.poll() is None
    ):
        time.sleep(0.02)
    workers = [
        int(p.name)
        for p in Path("/proc").iterdir()
        if p.name.isdigit() and _is_worker(p, str(tmp_path / "two"))
    ]
    if workers:
        os.kill(workers[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    if workers:
        assert process.returncode == 2 and "One of the 2 processes ended" in said
    done = subprocess.run(
        command(tmp_path, "two", "--gpus", "2", *more), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=TOLERANCE)


def _is_worker(process: Path, out: str) -> bool:
    try:
        words = (process / "cmdline").read_bytes().decode().split("\0")
        return out in words and b"RANK=" in (process / "environ").read_bytes()
    except OSError:
        return False
