"""A run that is killed at any moment and resumed ends with the same weights and the same losses."""

from __future__ import annotations

import json
import os
import random
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


def command(folder: Path, name: str, *more: str) -> list[str]:
    settings = ["epochs=3", "batch=4", "device_batch=2", "save_steps=4", *more]
    arguments = [
        "train",
        str(folder / "rows.jsonl"),
        "--base",
        "petri",
        "--out",
        str(folder / name),
        "--format",
        "petri",
    ]
    return [sys.executable, "-m", "s1", *arguments, *(word for s in settings for word in ("--set", s))]


def record(folder: Path) -> dict:
    found = json.loads((folder / "train.json").read_text())
    for entry in (found, *found["log"]):
        del entry["seconds"]
    return found


@pytest.mark.parametrize(
    ("more", "weights"), [((), "model.safetensors"), (("lora_rank=4",), "adapter_model.safetensors")]
)
def test_kills_at_random_moments_change_neither_weights_nor_losses(tmp_path, more, weights):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    subprocess.run(command(tmp_path, "whole", *more), check=True, capture_output=True, timeout=300)
    chance, out, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 3:
        process = subprocess.Popen(
            command(tmp_path, "killed", *more), stderr=subprocess.DEVNULL, start_new_session=True
        )
        seen = sorted(p.name for p in out.glob("checkpoints/checkpoint-*"))
        while sorted(p.name for p in out.glob("checkpoints/checkpoint-*")) == seen and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3))
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert kills
    done = subprocess.run(command(tmp_path, "killed", *more), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert record(out) == record(tmp_path / "whole")
    assert len(record(out)["log"]) == record(out)["steps"] == 30
