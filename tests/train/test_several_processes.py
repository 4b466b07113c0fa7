"""Two processes on a processor (gloo, FSDP2) train as one does, and a killed one ends the run, which then resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = ("epochs=2", "batch=8", "device_batch=2", "bf16=false", "save_steps=2")
TOLERANCE = 2e-5
"""Of a loss: the gradients of two processes are summed in another order."""


@pytest.mark.parametrize("more", [(), ("lora_rank=4",)], ids=["full", "lora"])
def test_two_processes_have_the_losses_of_one_and_survive_a_kill(
    tmp_path, command, train_in_process, record_of, more, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    one = train_in_process("one", *SETTINGS, *more)
    assert one.returncode == 0, one.stderr
    words = ("two", "--gpus", "2", *SETTINGS, *more)
    process = subprocess.Popen(command(*words), stderr=subprocess.PIPE, text=True, start_new_session=True)
    saved = "two/checkpoints/checkpoint-*/trainer_state.json"
    while not list(tmp_path.glob(saved)) and process.poll() is None:
        time.sleep(0.02)
    processes = [p for p in Path("/proc").iterdir() if p.name.isdigit()]
    workers = [int(p.name) for p in processes if _is_worker(p, str(tmp_path / "two"))]
    if workers:
        os.kill(workers[-1], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    if workers:
        assert process.returncode == 2 and "One of the 2 processes ended" in said
    done = train_in_process(*words)
    assert done.returncode == 0, done.stderr

    def losses(name: str) -> list[float]:
        return [entry["loss"] for entry in record_of(tmp_path / name)["log"]]

    assert losses("two") == pytest.approx(losses("one"), abs=TOLERANCE)
    assert record_of(tmp_path / "two")["sharded"] and not record_of(tmp_path / "one")["sharded"]
    whole, gathered = (load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("one", "two"))
    assert whole.keys() == gathered.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(gathered[name], weight, atol=1e-3, rtol=0, msg=name)


def _is_worker(process: Path, out: str) -> bool:
    try:
        words = (process / "cmdline").read_bytes().decode().split("\0")
        return out in words and b"RANK=" in (process / "environ").read_bytes()
    except OSError:
        return False
