"""A run that is killed at any moment and resumed ends with the same weights and the same losses."""

from __future__ import annotations

import random

import forked
import pytest

from s1.train.result_folder import last_checkpoint

pytest.importorskip("trl")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SETTINGS = ("epochs=2", "batch=4", "device_batch=2", "save_steps=4")


@pytest.mark.parametrize(
    ("more", "weights"), [((), "model.safetensors"), (("lora_rank=4",), "adapter_model.safetensors")]
)
def test_kills_at_random_moments_change_neither_weights_nor_losses(
    tmp_path, command, trained, killed_at_a_checkpoint, record_of, more, weights
):
    whole, chance = trained(*SETTINGS, *more), random.Random(0)
    for _ in range(2):
        out = killed_at_a_checkpoint("killed", *SETTINGS, *more, seconds=chance.uniform(0, 0.3))
    done = forked.s1(*command("killed", *SETTINGS, *more), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (out / weights).read_bytes() == (whole / weights).read_bytes()
    assert record_of(out) == record_of(whole)
    assert len(record_of(out)["log"]) == record_of(out)["steps"] == 22
    assert not (out / "checkpoints").exists()


def test_a_full_disk_is_one_error_and_loses_nothing(
    tmp_path, command, trained, killed_at_a_checkpoint, record_of
):
    """Files of at most 8 or 16 MB: the weights take 14 and the optimiser's state 27."""
    out = killed_at_a_checkpoint("full", *SETTINGS)
    kept = last_checkpoint(out / "checkpoints")
    for megabytes in (8, 16):
        done = forked.s1(*command("full", *SETTINGS), folder=tmp_path, file_bytes=megabytes << 20)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert "cannot be written" in done.stderr and str(out) in done.stderr
        assert last_checkpoint(out / "checkpoints") == kept
    again = forked.s1(*command("full", *SETTINGS), folder=tmp_path)
    assert again.returncode == 0, again.stderr
    whole = trained(*SETTINGS)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert record_of(out) == record_of(whole)
