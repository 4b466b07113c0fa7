"""A model is known by the content of its files, wherever they are and whenever they were written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from s1.engines import checkpoint_hash as module
from s1.engines.checkpoint_hash import checkpoint_hash
from s1.engines.model_id import model_id


def checkpoint(folder: Path, scale: float = 1.0) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    wide = np.linspace(-1, 1, 3 << 18, dtype=np.float32)  # 3 MiB
    save_file({"wide": wide * scale, "norm": np.ones(8, np.float32)}, folder / "model.safetensors")
    return folder


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / "model.safetensors"))


def test_a_copy_is_the_same_model_and_a_retrained_one_another(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a" / "model")
    copied = shutil.copytree(first, tmp_path / "elsewhere")
    os.utime(copied / "model.safetensors", (1, 1))
    (copied / "train.json").write_text('{"seconds": 3}')
    known = checkpoint_hash(first)
    assert checkpoint_hash(copied) == known
    assert checkpoint_hash(checkpoint(tmp_path / "b" / "model", 1.0001)) != known
    (first / "config.json").write_text('{"model_type": "llama", "rope_theta": 1}')
    assert checkpoint_hash(first) != known


@pytest.mark.parametrize("name", ["wide", "norm"])
def test_a_large_file_is_sampled_in_every_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(module, "WHOLE", 1 << 20)
    folder = checkpoint(tmp_path / "model")
    known, changed = checkpoint_hash(folder), weights(folder)
    changed[name] = changed[name] * np.float32(1.0001)
    save_file(changed, folder / "model.safetensors")
    assert checkpoint_hash(folder) != known


def test_a_single_value_between_the_samples_is_missed_in_a_large_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the documentation admits."""
    folder = checkpoint(tmp_path / "model")
    whole = checkpoint_hash(folder)
    monkeypatch.setattr(module, "WHOLE", 1 << 20)
    sampled, changed = checkpoint_hash(folder), weights(folder)
    changed["wide"][5_000] += 1
    save_file(changed, folder / "model.safetensors")
    assert checkpoint_hash(folder) == sampled
    monkeypatch.undo()
    assert checkpoint_hash(folder) != whole


def test_a_damaged_safetensors_header_still_gives_a_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE", 0)
    for content in (
        b"",
        b"\xff" * 30,
        (3).to_bytes(8, "little") + b"[1]",
        (9).to_bytes(8, "little") + b'{"a":[1]}',
    ):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert len(checkpoint_hash(tmp_path)) == 64


def test_a_hub_model_is_known_by_its_commit_and_a_server_by_what_it_calls_its_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--org--name"
    (home / "snapshots" / commit).mkdir(parents=True)
    (home / "snapshots" / commit / "config.json").write_text(json.dumps({}))
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert model_id("hf:org/name") == model_id("vllm:org/name") == f"org/name@{commit}"
    assert model_id("hf:org/other") == "org/other"
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name"}')
    assert model_id(f"hf:{tmp_path / 'adapter'}").startswith(f"org/name@{commit}+")
    server = "openai:http://127.0.0.1:8000/v1?model=org/name"
    assert model_id(server) == server
    assert model_id("scripted") == "scripted"
    folder = checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    assert model_id(f"hf:{folder}") == model_id(f"vllm:{folder}") == "sha256:" + checkpoint_hash(folder)
