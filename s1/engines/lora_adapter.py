"""Adapters (LoRA): a folder with the change to a base model, which is loaded with the base and merged into it.

The base is the one that the adapter was trained on. Its name is in `adapter_config.json`; `s1 train` also
records a hash of its weights, because an adapter on other weights gives nonsense without an error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s1.engines.checkpoint_hash import weights_hash
from s1.errors import BadInput, MissingExtra, first_line

ADAPTER = "adapter_config.json"
BASE_WEIGHTS = "base_weights"
"""The field of train.json with the hash of the weights that the adapter was trained on."""


def is_adapter(folder: Path) -> bool:
    """Whether the folder holds an adapter rather than a whole model."""
    return (folder / ADAPTER).is_file() and not (folder / "config.json").is_file()


def base_of(folder: Path) -> str:
    """The base model that an adapter names: a folder or Hub id. Raises BadInput when it is not there."""
    file = folder / ADAPTER
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise BadInput(f"{file}: it does not name its base model.", "Name it: hf:ADAPTER?base=MODEL.")
    if base.startswith(("/", ".", "~")) and not Path(base).expanduser().is_dir():
        raise BadInput(
            f"{folder}: its base model {base} is not there.", "Name the folder: hf:ADAPTER?base=MODEL."
        )
    return base


def with_adapter(model: Any, folder: Path, base: str) -> Any:
    """The model with the adapter in `folder` added to its weights. `base` is the folder or Hub id it came from.

    Raises BadInput when the adapter belongs to another base, MissingExtra without PEFT.
    """
    from transformers import GenerationConfig

    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra("peft", "hf") from None
    _check_base(base, folder)
    try:
        merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    except (RuntimeError, ValueError, OSError, KeyError, TypeError) as error:
        raise BadInput(
            f"{folder}: this adapter does not fit {base} ({first_line(error)}).",
            "Give the base model that it was trained on: hf:ADAPTER?base=MODEL.",
        ) from error
    if (folder / "generation_config.json").is_file():
        merged.generation_config = GenerationConfig.from_pretrained(folder)
    return merged


def _check_base(base: str, folder: Path) -> None:
    record = folder / "train.json"
    recorded = json.loads(record.read_text(encoding="utf-8")).get(BASE_WEIGHTS) if record.is_file() else None
    found = weights_hash(Path(base))
    if recorded and found and recorded != found:
        raise BadInput(
            f"{folder}: this adapter was trained on another base than {base}.",
            "Give the base model that it was trained on: hf:ADAPTER?base=MODEL.",
        )
