"""Two processes on a processor (gloo, FSDP2) train as one does, and a killed one ends the run, which then resumes.

They are on one machine, or on two "machines" that share a disk and meet on the loopback address.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import forked
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from safetensors.torch import load_file  # noqa: E402

from s1.errors import BadConfig  # noqa: E402
from s1.train.result_folder import begin  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
# 42 rows: the last step of an epoch has two, which is fewer than two processes read at once.
SETTINGS = ("epochs=2", "batch=8", "device_batch=2", "bf16=false", "save_steps=2")
S1 = [sys.executable, "-m", "s1"]
TOLERANCE = 2e-5
"""Of a loss: the gradients of two processes are summed in another order."""


def test_two_processes_have_the_losses_of_one_and_survive_a_kill(
    tmp_path, command, trained, record_of, monkeypatch
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ("two", "--gpus", "2", *SETTINGS)
    for _ in range(5):  # on a busy machine it may be done before it is killed
        shutil.rmtree(tmp_path / "two", ignore_errors=True)
        process = subprocess.Popen([*S1, *command(*words)], stderr=subprocess.PIPE, text=True)
        wait_for_a_checkpoint(tmp_path / "two", process)
        for worker in _workers(str(tmp_path / "two"))[-1:]:
            _kill(worker)
        _, said = process.communicate(timeout=600)
        if process.returncode:
            break
    assert process.returncode == 2 and "One of the 2 processes ended" in said, said
    assert not (tmp_path / "two" / "train.json").exists()
    done = forked.s1(*command(*words), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(trained(*SETTINGS), tmp_path / "two", record_of)


def test_two_processes_train_the_adapter_that_one_trains(tmp_path, command, trained, record_of, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = (*SETTINGS, "lora_rank=4")
    done = forked.s1(*command("two", "--gpus", "2", *words), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same(trained(*words), tmp_path / "two", record_of)


def assert_same(one: Path, two: Path, record_of: Callable[[Path], dict]) -> None:
    assert _losses(record_of(two)) == pytest.approx(_losses(record_of(one)), abs=TOLERANCE)
    assert record_of(two)["sharded"] and not record_of(one)["sharded"]
    whole, gathered = (load_file(next(folder.glob("*.safetensors"))) for folder in (one, two))
    assert whole.keys() == gathered.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(gathered[name], weight, atol=1e-3, rtol=0, msg=name)


def wait_for_a_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    while not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")) and process.poll() is None:
        time.sleep(0.02)


TORCHRUN = "torch.distributed.run --nnodes 2 --nproc-per-node 1 --node-rank {} --master-addr 127.0.0.1 --master-port {}"
ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --num_machines 2 --num_processes 2 --machine_rank {} "
    "--main_process_ip 127.0.0.1 --main_process_port {} --mixed_precision no --dynamo_backend no"
)


def test_two_machines_have_the_losses_of_one_process_and_survive_the_loss_of_one(
    tmp_path, command, trained, record_of, monkeypatch
):
    """Begun with torchrun, one machine lost, resumed with accelerate launch.

    --multi_gpu is its way to start processes that meet; with --cpu it would start them through MPI.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def machines(launcher: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        commands = [[sys.executable, "-m", *launcher.format(rank, port).split()] for rank in (0, 1)]
        return [
            subprocess.Popen(
                [*words, "-m", "s1", *command("two", *SETTINGS)], stderr=subprocess.PIPE, text=True
            )
            for words in commands
        ]

    for _ in range(5):  # on a busy machine it may be done before it is killed
        shutil.rmtree(tmp_path / "two", ignore_errors=True)
        first, second = machines(TORCHRUN)
        wait_for_a_checkpoint(tmp_path / "two", first)
        second.kill()
        for worker in _workers(str(tmp_path / "two"), b"\0RANK=1\0"):
            _kill(worker)
        _, said = first.communicate(timeout=600)
        second.communicate()
        if first.returncode:
            break
    assert "Another of the 2 processes ended" in said, said
    assert not (tmp_path / "two" / "train.json").exists()

    both = machines(ACCELERATE)
    for machine in both:
        _, said = machine.communicate(timeout=600)
        assert machine.returncode == 0, said
    assert _losses(record_of(tmp_path / "two")) == pytest.approx(
        _losses(record_of(trained(*SETTINGS))), abs=TOLERANCE
    )


def test_a_machine_with_another_folder_is_refused(tmp_path):
    record = {"rows_sha256": "a"}
    assert begin(tmp_path / "here", record, first=True) is None
    assert begin(tmp_path / "here", record, first=False) is None
    for folder, other in (("elsewhere", record), ("here", {"rows_sha256": "b"})):
        with pytest.raises(BadConfig, match="share"):
            begin(tmp_path / folder, other, first=False)
    assert not (tmp_path / "elsewhere").exists()


def _losses(record: dict) -> list[float]:
    return [entry["loss"] for entry in record["log"]]


def _workers(out: str, holding: bytes = b"\0RANK=") -> list[int]:
    """The processes that train into that folder and have that in their environment."""
    return [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_worker(p, out, holding)]


def _kill(worker: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)


def _is_worker(process: Path, out: str, holding: bytes) -> bool:
    try:
        words = (process / "cmdline").read_bytes().decode().split("\0")
        return out in words and holding in (process / "environ").read_bytes()
    except OSError:
        return False
