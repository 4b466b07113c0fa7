"""LoRA: the adapter is saved as one, loads on its base alone, and merges to the same model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")
peft = pytest.importorskip("peft")

from safetensors.torch import load_file, save_file  # noqa: E402

from s1.engines import load_engine  # noqa: E402
from s1.engines.model_files import find_model, plain_source  # noqa: E402
from s1.errors import BadConfig, BadInput, Unsupported  # noqa: E402
from s1.formats import FORMATS, choose_format  # noqa: E402
from s1.petri import world  # noqa: E402
from s1.train.model import save_merged  # noqa: E402
from s1.train.sft import train  # noqa: E402
from s1.types import Question, Trace  # noqa: E402

TRACES = [Trace(Question(f"q{n}", f"solve {n} x", "5"), f"x {n} : 1 no .", "5") for n in range(4)]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return Path(shutil.copytree(world.base_model(), tmp_path_factory.mktemp("base") / "base"))


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    settings = world.train_settings(batch=4, device_batch=4, max_steps=3, lora_rank=4, learning_rate=0.05)
    return train(str(base), TRACES, tmp_path_factory.mktemp("out") / "adapter", FORMATS["petri"], settings)


def logits(engine) -> torch.Tensor:
    ids = torch.tensor([engine.encode("<|user|> solve 3 x<|assistant|>")])
    with torch.inference_mode():
        return engine.model(ids).logits


def test_an_adapter_is_saved_alone_and_changes_its_base_when_loaded(base, adapter):
    assert (adapter / "adapter_model.safetensors").is_file() and not (adapter / "model.safetensors").exists()
    assert not (adapter / "checkpoints").exists()
    engine = load_engine(str(adapter))
    assert choose_format(engine).name == "petri" and engine.folder == adapter
    assert not torch.allclose(logits(engine), logits(load_engine(str(base))), atol=0.1)


def test_a_base_that_has_only_a_name_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    """PEFT would, to see whether the vocabulary grew, and would warn where it is not there."""
    asked = []
    monkeypatch.setattr(
        peft.utils.save_and_load, "check_file_exists_on_hf_hub", lambda *file: asked.append(file)
    )
    settings = world.train_settings(batch=4, device_batch=4, max_steps=1, lora_rank=4)
    out = train("petri", TRACES, tmp_path / "named", FORMATS["petri"], settings)
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "petri"
    assert not asked


def test_the_merged_model_is_the_adapter_on_its_base(base, adapter):
    merged = save_merged(adapter, str(base))
    engine = load_engine(str(merged))
    assert choose_format(engine).name == "petri"
    torch.testing.assert_close(logits(engine), logits(load_engine(str(adapter))))
    before = (merged / "model.safetensors").stat().st_mtime_ns
    assert save_merged(adapter, str(base)) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == before


def test_an_adapter_for_another_base_is_refused(base, adapter, tmp_path):
    other = Path(shutil.copytree(base, tmp_path / "other"))
    weights = load_file(other / "model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(BadInput, match="another base"):
        load_engine(f"hf:{adapter}?base={other}")
    with pytest.raises(BadConfig, match="not an adapter"):
        load_engine(f"hf:{base}?base={other}")


def test_an_adapter_of_another_shape_or_without_its_base_is_refused(base, adapter, tmp_path):
    copy = Path(shutil.copytree(adapter, tmp_path / "copy"))
    (copy / "train.json").unlink()
    weights = load_file(copy / "adapter_model.safetensors")
    save_file(
        {k: torch.cat([v, v], dim=1) if "lora_A" in k else v for k, v in weights.items()},
        copy / "adapter_model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(BadInput, match="does not fit"):
        load_engine(str(copy))
    config = json.loads((copy / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")})
    )
    with pytest.raises(BadInput, match="not there"):
        load_engine(str(copy))
    with pytest.raises(Unsupported, match="merge"):
        plain_source(find_model(str(adapter)), "vllm")
