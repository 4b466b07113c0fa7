"""A run that is killed at any moment and resumed ends with the same weights and the same losses."""

from __future__ import annotations

import os
import random
import shlex
import signal
import subprocess
import time

import pytest

from s1.train.result_folder import last_checkpoint

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = ("epochs=3", "batch=4", "device_batch=2", "save_steps=4")


@pytest.mark.parametrize(
    ("more", "weights"), [((), "model.safetensors"), (("lora_rank=4",), "adapter_model.safetensors")]
)
def test_kills_at_random_moments_change_neither_weights_nor_losses(
    tmp_path, command, train_in_process, record_of, more, weights
):
    whole = train_in_process("whole", *SETTINGS, *more)
    assert whole.returncode == 0, whole.stderr
    chance, out, kills = random.Random(0), tmp_path / "killed", 0
    while kills < 3:
        process = subprocess.Popen(
            command("killed", *SETTINGS, *more), stderr=subprocess.DEVNULL, start_new_session=True
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
    done = train_in_process("killed", *SETTINGS, *more)
    assert done.returncode == 0, done.stderr
    assert (out / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    assert record_of(out) == record_of(tmp_path / "whole")
    assert len(record_of(out)["log"]) == record_of(out)["steps"] == 33


@pytest.mark.parametrize("blocks", [8000, 16000], ids=["no room for weights", "no room for the optimiser"])
def test_a_full_disk_is_one_error_and_loses_nothing(tmp_path, command, train_in_process, record_of, blocks):
    """Files of at most 8 or 16 MB; the weights take 14 and the optimiser's state 27."""
    whole = train_in_process("whole", *SETTINGS)
    assert whole.returncode == 0, whole.stderr
    out = tmp_path / "full"
    process = subprocess.Popen(command("full", *SETTINGS), stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = last_checkpoint(out / "checkpoints")
    limited = f"ulimit -f {blocks}; exec {shlex.join(command('full', *SETTINGS))}"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert "cannot be written" in done.stderr and str(out) in done.stderr
    assert last_checkpoint(out / "checkpoints") == kept
    again = train_in_process("full", *SETTINGS)
    assert again.returncode == 0, again.stderr
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole/model.safetensors").read_bytes()
    assert record_of(out) == record_of(tmp_path / "whole")
